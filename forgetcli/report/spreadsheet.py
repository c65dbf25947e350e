"""CSV files with text from recipes, prompts and plug-ins, in which no cell is a formula.

A spreadsheet runs a cell that begins with ``=`` as a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

# Spreadsheets also accept the full-width and small forms of these signs.
FORMULA_SIGNS = "=+-@＝＋－＠﹢﹣﹦﹫"


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in which no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_without_returns(inert_cell(cell)) for cell in row] for row in rows)
    # File names that are not UTF-8 have lone surrogates, which are written as escapes.
    return text.getvalue().encode(errors="backslashreplace")


def inert_cell(cell: object) -> object:
    """A cell. If a spreadsheet would run it as a formula, an apostrophe is put in front."""
    if isinstance(cell, str) and _is_formula(cell):
        return f"'{cell}"
    return cell


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet could run a cell. It skips spaces and invisible characters first."""
    for char in cell:
        if char in "\t\r" or char in FORMULA_SIGNS:
            return True
        if char.isprintable() and char != " " and not "\ufe00" <= char <= "\ufe0f":
            return False
    return False


def _without_returns(cell: object) -> object:
    """A cell with line feeds instead of carriage returns.

    Python's CSV writer does not quote a carriage return. A spreadsheet would begin a new row there,
    and a formula could follow.
    """
    if isinstance(cell, str) and "\r" in cell:
        return cell.replace("\r\n", "\n").replace("\r", "\n")
    return cell
