"""Text from recipes, prompts and plug-ins in Markdown, escaped so that it stays text.

A Markdown viewer runs HTML, loads images and links addresses. The model card and the tables of a
comparison contain names that anyone may have chosen.
"""

from __future__ import annotations

import re

# Characters that mean something in Markdown, or in a dialect of it (tables, mathematics, mentions).
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:@^=])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Between letters or digits an underscore is not emphasis.
_INTRAWORD_UNDERSCORE = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")
JOINERS = "\u200c\u200d"  # not printable, but emoji and several scripts need them


def one_line(text: str) -> str:
    """`text` on one line, without control characters and bidirectional overrides."""
    flat = " ".join(text.split())
    return "".join(char for char in flat if char.isprintable() or char in JOINERS)


def escaped(text: object) -> str:
    """`text` on one line, shown literally: no markup, HTML or links."""
    return escaped_line(one_line(str(text)))


def escaped_line(line: str) -> str:
    """As `escaped`, for text that `one_line` has already put on one line."""
    return _SPECIAL.sub(r"\\\1", "".join(_ENTITIES.get(char, char) for char in line))


def heading(text: object) -> str:
    """`escaped`, but with the underscores of `art_styles` left alone, so that it is easier to read
    unrendered.
    """
    return _INTRAWORD_UNDERSCORE.sub("_", escaped(text))


def code(text: str) -> str:
    """Text as inline code, on one line."""
    flat = one_line(text)
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    if longest == 0:
        return f"`{flat}`"
    fence = "`" * (longest + 1)
    return f"{fence} {flat} {fence}"
