"""CSV with a header: rows with the line on which they begin, and every fault of the CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from forgetcli.evaluation.prompt_sets.settings import COLUMNS, SETTINGS
from forgetcli.evaluation.prompt_sets.source import Source

SUFFIXES = (".csv", ".tsv", ".tab")
_DELIMITERS = (",", ";", "\t")
_TAB_SUFFIXES = (".tsv", ".tab")


class Table:
    """The columns and rows of a file. Blank rows and columns without a name are left out.

    Column names are compared without case. Cells are stripped.

    Attributes:
        line: the line of the header.
        columns: the names of the columns, in lower case.
        rows: in the order of the file.
    """

    def __init__(self, sheet: Source) -> None:
        self.sheet = sheet
        records = _records(sheet.text, _delimiter(sheet.text, sheet.path.suffix.lower()))
        empty: tuple[int, list[str] | csv.Error] = (1, [])
        self.line, header = next((record for record in records if _is_anything(record[1])), empty)
        names: list[str] = []
        if isinstance(header, csv.Error):
            self._bad_form(self.line, header)
        else:
            names = [_name(cell) for cell in header]
        self.columns = tuple(dict.fromkeys(filter(None, names)))
        for column in self.columns:
            if names.count(column) > 1:
                sheet.fault(
                    self.line,
                    f"the column '{column}' is there {names.count(column)} times",
                    "keep one of them",
                    code="bad-header",
                )
        self.rows = list(self._rows(records, names))

    def _rows(
        self, records: Iterable[tuple[int, list[str] | csv.Error]], names: list[str]
    ) -> Iterator[Row]:
        for line, cells in records:
            if isinstance(cells, csv.Error):
                self._bad_form(line, cells)
            elif _is_anything(cells) and names:
                if len(cells) != len(names):
                    cell_count = _count(len(cells), "cell")
                    column_count = _count(len(names), "column")
                    self.sheet.fault(
                        line,
                        f"the row has {cell_count}, the header {column_count}",
                        'write "quotes" around a cell that holds a delimiter or a line break',
                    )
                else:
                    # Reversed: of two columns with one name, the first counts.
                    pairs = reversed(list(zip(names, cells, strict=True)))
                    by_name = {name: cell.strip() for name, cell in pairs if name}
                    yield Row(self.sheet, line, by_name)

    def _bad_form(self, line: int, error: csv.Error) -> None:
        reason = str(error)
        hint = 'a quote inside quotes is written twice: ""'
        if "field limit" in reason:
            what = f"a cell has more than {csv.field_size_limit()} characters"
            hint = "is a quote not closed?"
        elif "end of data" in reason:
            what = "a quote is opened and never closed"
        else:
            what = "there is text after a closing quote"
        self.sheet.fault(line, what, hint)

    def need(self, *columns: str | tuple[str, ...]) -> None:
        """Note a fault for each of `columns` that is missing. A tuple is a choice of columns."""
        for column in columns:
            names = (column,) if isinstance(column, str) else column
            if self.columns and not set(names) & set(self.columns):
                near = get_close_matches(names[0], self.columns, 1, 0.8)
                hint = (
                    f"is '{near[0]}' meant to be it?"
                    if near
                    else f"the first line names the columns; they are: {', '.join(self.columns)}"
                )
                self.sheet.fault(
                    self.line, f"there is no column '{names[0]}'", hint, code="bad-header"
                )

    def doubt(self, known: Iterable[str]) -> None:
        """Warn of each unknown column whose name resembles a known one. It is not read."""
        known = set(known)
        for column in (name for name in self.columns if name not in known):
            near = get_close_matches(column, known - set(self.columns), 1, 0.8)
            if near:
                self.sheet.warn(
                    self.line, f"the column '{column}' is not read: is '{near[0]}' meant?"
                )


@dataclass(frozen=True)
class Row:
    """The cells of a row by column, and the line on which it begins.

    Faults of cells are noted in `sheet`.
    """

    sheet: Source
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The cell; empty without such a column."""
        return self.cells.get(column, "")

    def needed(self, column: str) -> str:
        """The cell, which must not be empty. `Table.need` reports missing columns, once."""
        if self.cells.get(column) == "":
            self.sheet.fault(
                self.line, f"{column} is empty", "write what is meant, or take the row out"
            )
        return self.text(column)

    def choice(self, column: str, choices: tuple[str, ...], default: str) -> Any:
        """The cell, which must be one of `choices`; `default` if it is empty."""
        given = self.text(column).lower() or default
        if given not in choices:
            near = get_close_matches(given, choices, 1)
            self.sheet.fault(
                self.line,
                f"{column} is '{_short(self.text(column))}'",
                f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(choices)}",
            )
        return given

    def settings(self, *needed: str) -> dict[str, Any]:
        """The settings of the image, as keywords of an EvalPrompt.

        Args:
            needed: settings whose cells must not be empty.
        """
        values: dict[str, Any] = {}
        for setting, columns in COLUMNS.items():
            column = next((name for name in columns if name in self.cells), "")
            cell = self.needed(column) if setting in needed and column else self.text(column)
            if cell:
                try:
                    values[setting] = SETTINGS[setting].parsed(cell)
                except ValueError:
                    self.sheet.fault(
                        self.line,
                        f"{column} must be {SETTINGS[setting].demand}, not '{_short(cell)}'",
                    )
        return values


def columns_of(text: str, suffix: str) -> tuple[str, ...]:
    """The columns of the header; none if the header is malformed."""
    for _, cells in _records(text, _delimiter(text, suffix)):
        if _is_anything(cells):
            return () if isinstance(cells, csv.Error) else tuple(filter(None, map(_name, cells)))
    return ()


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each record with the line on which it begins, also after a malformed record."""
    # newline="" keeps line breaks inside quotes. Every line of the file counts, also blank ones.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, error
        else:
            yield line, cells


def _delimiter(text: str, suffix: str) -> str:
    """The delimiter that gives the header the most columns. In .tsv and .tab files: a tab."""
    if suffix in _TAB_SUFFIXES:
        return "\t"

    def width(delimiter: str) -> int:
        header = next((cells for _, cells in _records(text, delimiter) if _is_anything(cells)), [])
        return 0 if isinstance(header, csv.Error) else len(header)

    return max(_DELIMITERS, key=width)


def _is_anything(cells: list[str] | csv.Error) -> bool:
    return isinstance(cells, csv.Error) or any(cell.strip() for cell in cells)


def _name(cell: str) -> str:
    return cell.strip().lower()


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
