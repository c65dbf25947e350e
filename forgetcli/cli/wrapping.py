"""Lines that fit a terminal, which would break words and numbers itself."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import TextIO

# Between a number and its unit no line ends.
_UNIT = re.compile(r"(\d) (%|s\b|min\b|[kMGT]?B\b)")
_NO_BREAK = "\u00a0"


def fitted(text: str, stream: TextIO) -> str:
    """Text with lines that fit a terminal, wrapped between words; elsewhere as it is."""
    return wrapped(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def wrapped(text: str, width: int) -> str:
    """Lines of text, wrapped between words; continued lines are indented."""
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    # A digest or a path after its name stays there: it needs two lines anyway.
    words = line.split()
    if len(line) <= width or (len(words) <= 3 and max(map(len, words)) > width - 4):
        return line
    filled = textwrap.fill(
        _UNIT.sub(rf"\1{_NO_BREAK}\2", line),
        width,
        subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(_NO_BREAK, " ")
