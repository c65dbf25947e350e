"""Limits of a recipe: no text of a few bytes costs minutes, gigabytes or Python's stack.

Real recipes are far below them: a thousand concepts with ten templates are 10,000 edit prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from forgetcli.errors import ForgetError
from forgetcli.recipe.model import Document
from forgetcli.recipe.problems import Sheet, clipped
from forgetcli.recipe.toml_lines import KeyPath

LARGEST_FILE = 64_000_000  # bytes, with the prompts that the record at its end holds
LONGEST_BODY = 4_000_000  # characters of TOML
DEEPEST = 16  # tables and lists within one another; the deepest key that exists has 6 parts
LONGEST_TEXT = 10_000  # characters; encoders read 77 to 512 tokens
LONGEST_KEY = 200  # characters
LONGEST_OVERRIDE = 100_000  # characters of a --set
MOST_EDIT_PROMPTS = 100_000

# Strings and comments of TOML. Possessive and without a required end: linear in the text.
_QUOTED = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:""")?'
    r"|'''(?:[^']++|'(?!''))*+(?:''')?"
    r'|"(?:[^"\\\n]++|\\[^\n])*+["\\]?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")


def check_text(body: str, name: str) -> None:
    """Check the TOML text before it is parsed: its size, and how deep it is nested.

    Raises:
        ForgetError: recipe.too-long, recipe.toml.
    """
    if len(body) > LONGEST_BODY:
        raise ForgetError(
            "recipe.too-long",
            f"{name}: it has more than {LONGEST_BODY // 10**6} million characters",
            "put prompts into text files, which [preserve] files names",
        )
    bare = _QUOTED.sub(lambda found: "" if found[0][0] == "#" else "0", body)
    brackets = "".join(re.findall(r"[\[\]{}]+", bare))
    for _ in range(DEEPEST):
        brackets = brackets.replace("[]", "").replace("{}", "")
    opening = brackets.count("[") + brackets.count("{")
    if "[]" in brackets or "{}" in brackets or opening > 2 * DEEPEST or _DEEP_KEY.search(bare):
        raise _too_deep(name)


def _too_deep(place: str) -> ForgetError:
    return ForgetError(
        "recipe.toml",
        f"{place}: not TOML that can be read: lists, tables or keys more than {DEEPEST} deep",
        "forget recipe schema lists all keys",
    )


def faults_of_values(data: Mapping[str, Any], sheet: Sheet) -> Iterator[ForgetError]:
    """Values of any table that no key can have: too long, too deep, or not to be written down."""
    pending: list[tuple[KeyPath, Any]] = [((), data)]
    while pending:
        path, value = pending.pop()
        if len(path) > DEEPEST:
            yield _too_deep(sheet.place(path))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if len(key) > LONGEST_KEY or not _is_unicode(key):
                    message = f"the key '{clipped(key)}' is not one of a recipe"
                    yield sheet.problem("unknown-key", (*path, key), message)
                else:
                    pending.append(((*path, key), item))
        elif isinstance(value, list):
            pending += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str):
            yield from _faults_of_text(path, value, sheet)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield sheet.problem("value", path, "a whole number of TOML has at most 64 bits")


def _faults_of_text(path: KeyPath, text: str, sheet: Sheet) -> Iterator[ForgetError]:
    if len(text) > LONGEST_TEXT:
        yield sheet.problem(
            "too-long",
            path,
            f"a text has {len(text)} characters, more than {LONGEST_TEXT}",
            "a prompt is a sentence or two",
        )
    elif not _is_unicode(text):
        yield sheet.problem(
            "encoding",
            path,
            f"a text is not Unicode: '{clipped(text)}'",
            "is the terminal's encoding UTF-8?",
        )


def faults_of_size(document: Document, sheet: Sheet) -> list[ForgetError]:
    """Whether templates and words make more edit prompts than can be edited."""
    templates = len(document.prompts.templates)
    count = sum(
        len(concept.words) * templates + len(concept.prompts) for concept in document.concepts
    )
    if count <= MOST_EDIT_PROMPTS:
        return []
    return [
        sheet.problem(
            "too-long",
            ("concepts",),
            f"the words and templates make {count:,} edit prompts, more than {MOST_EDIT_PROMPTS:,}",
            "use fewer aliases or fewer templates",
        )
    ]


def _is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
