"""Text from recipes, prompts and plugins as CSV cells and as Markdown, where it must stay text.

A spreadsheet runs a cell that begins with ``=`` as a formula, and a Markdown viewer runs HTML.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

# Spreadsheets skip blanks before a formula and take full-width signs for the usual ones.
FORMULA = re.compile("^[\\s\ufeff\u200b-\u200f\u2060]*[=+\\-@\t\r＝＋－＠]")

# The start of a block, characters with a meaning within a line, and the start of an HTML entity.
MARKUP = re.compile(r"^[#+=-]|[\\|`*_<>\[\]]|&(?=#?\w+;)")
# Between letters or digits an underscore is no emphasis: a heading keeps it.
INTRAWORD_UNDERSCORE = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in which no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([inert_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def inert_cell(cell: object) -> object:
    """A cell; one that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(cell, str) and FORMULA.match(cell):
        return f"'{cell}"
    return cell


def markdown_text(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(str(text).split())
    return MARKUP.sub(r"\\\g<0>", flat)


def markdown_heading(text: object) -> str:
    """Text in a heading: `markdown_text`, with the underscores of `art_styles` left alone."""
    return INTRAWORD_UNDERSCORE.sub("_", markdown_text(text))


def markdown_cell(text: object) -> str:
    """Text in a cell of a Markdown table, which may be pasted into a spreadsheet."""
    return markdown_text(inert_cell(text))


def markdown_code(text: str) -> str:
    """Text as inline code of Markdown, on one line."""
    flat = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    if longest == 0:
        return f"`{flat}`"
    fence = "`" * (longest + 1)
    return f"{fence} {flat} {fence}"
