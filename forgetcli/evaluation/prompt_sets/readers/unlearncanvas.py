"""UnlearnCanvas (Zhang et al., arXiv 2402.11846): an image of every object in every style.

A prompt asks for two concepts, so it is two EvalPrompts of one image: the style, in the group
``style``, and the object, in the group ``object``. Styles and objects are two lists in a TOML file,
or two columns of a CSV.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgetcli.evaluation.prompt_sets.document import Document
from forgetcli.evaluation.prompt_sets.prompts import EvalPrompt
from forgetcli.evaluation.prompt_sets.settings import KEYS
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.evaluation.prompt_sets.table import SUFFIXES, Table

LISTS = ("styles", "objects")
TEMPLATE = "A {object} image in {style} style."  # of the benchmark's own sampling
_GAP = re.compile(r"\{(style|object)\}")


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in (*SUFFIXES, ".toml")
        and bool(set(LISTS) & set(header))
        and "prompt" not in header
    )


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """Every style with every object. Underscores become spaces in prompts, as in the benchmark."""
    in_toml = sheet.path.suffix.lower() == ".toml"
    styles, objects, template, settings = _from_toml(sheet) if in_toml else _from_csv(sheet)
    for style_line, style in styles:
        for object_line, thing in objects:
            prompt = _prompt(template, style, thing)
            yield EvalPrompt(prompt, style, "direct", "style", line=style_line, **settings)
            yield EvalPrompt(prompt, thing, "direct", "object", line=object_line, **settings)


def _prompt(template: str, style: str, thing: str) -> str:
    words = {"style": style.replace("_", " "), "object": thing.replace("_", " ")}
    return _GAP.sub(lambda gap: words[gap[1]], template)


def _from_toml(
    sheet: Source,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]], str, dict[str, Any]]:
    document = Document(sheet)
    document.known((), document.data, (*KEYS, *LISTS, "template"))
    for key in LISTS:
        if document.data.get(key, []) == []:
            document.fault((key,), f"there are no {key}", f'list them: {key} = ["…", "…"]', "empty")
    template = document.text((), document.data, "template") or TEMPLATE
    if sorted(_GAP.findall(template)) != ["object", "style"]:
        hint = f"it must have one {{style}} and one {{object}}: {TEMPLATE}"
        document.fault(("template",), f"template is '{template}'", hint)
    styles, objects = (document.texts((), document.data, key) for key in LISTS)
    return styles, objects, template, document.settings()


def _from_csv(
    sheet: Source,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]], str, dict[str, Any]]:
    table = Table(sheet)
    table.need(*LISTS)
    styles, objects = (
        [(row.line, row.text(key)) for row in table.rows if row.text(key)] for key in LISTS
    )
    for key, items in zip(LISTS, (styles, objects), strict=True):
        if key in table.columns and not items:
            sheet.fault(
                table.line,
                f"there are no {key}",
                f"list them in the column '{key}', one a row",
                "empty",
            )
    return styles, objects, TEMPLATE, {}
