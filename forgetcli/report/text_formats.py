"""Text from recipes, prompts and plugins as CSV cells and as Markdown, where it must stay text.

A spreadsheet runs a cell that begins with ``=`` as a formula, and a Markdown viewer runs HTML.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

# Spreadsheets take full-width and small signs for the usual ones.
FORMULA_SIGNS = "=+-@＝＋－＠﹢﹣﹦﹫"
JOINERS = "\u200c\u200d"  # emoji and several scripts need them

# The start of a block, characters with a meaning within a line, and the start of an HTML entity.
MARKUP = re.compile(r"^[#+=-]|[\\|`*_<>\[\]]|&(?=#?\w+;)")
# A number that would begin a list.
LIST_NUMBER = re.compile(r"^(\d+)([.)])")
# Between letters or digits an underscore is no emphasis: a heading keeps it.
INTRAWORD_UNDERSCORE = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in which no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_without_returns(inert_cell(cell)) for cell in row] for row in rows)
    # Names of files that are not UTF-8 have lone surrogates, which are written as escapes.
    return text.getvalue().encode(errors="backslashreplace")


def inert_cell(cell: object) -> object:
    """A cell; one that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(cell, str) and _is_formula(cell):
        return f"'{cell}"
    return cell


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet could run a cell; they skip blanks and invisible characters first."""
    for char in cell:
        if char in "\t\r" or char in FORMULA_SIGNS:
            return True
        if char.isprintable() and char != " " and not "\ufe00" <= char <= "\ufe0f":
            return False
    return False


def _without_returns(cell: object) -> object:
    """A cell in which carriage returns are line feeds.

    Python's writer leaves a carriage return without quotation marks. A spreadsheet would begin a
    row at it, and a formula could follow.
    """
    if isinstance(cell, str) and "\r" in cell:
        return cell.replace("\r\n", "\n").replace("\r", "\n")
    return cell


def one_line(text: str) -> str:
    """`text` on one line, without control characters, bidirectional overrides among them."""
    flat = " ".join(text.split())
    return "".join(char for char in flat if char.isprintable() or char in JOINERS)


def markdown_text(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = one_line(str(text))
    return LIST_NUMBER.sub(r"\1\\\2", MARKUP.sub(r"\\\g<0>", flat))


def markdown_heading(text: object) -> str:
    """Text in a heading: `markdown_text`, with the underscores of `art_styles` left alone."""
    return INTRAWORD_UNDERSCORE.sub("_", markdown_text(text))


def markdown_cell(text: object) -> str:
    """Text in a cell of a Markdown table, which may be pasted into a spreadsheet."""
    return markdown_text(inert_cell(text))


def markdown_code(text: str) -> str:
    """Text as inline code of Markdown, on one line."""
    flat = one_line(text)
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    if longest == 0:
        return f"`{flat}`"
    fence = "`" * (longest + 1)
    return f"{fence} {flat} {fence}"
