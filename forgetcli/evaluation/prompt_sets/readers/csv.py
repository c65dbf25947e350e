"""Any CSV or TSV with a column of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from forgetcli.evaluation.prompt_sets import KINDS, EvalPrompt, Sheet
from forgetcli.evaluation.prompt_sets.settings import COLUMNS
from forgetcli.evaluation.prompt_sets.sheet import TABLES

GENERIC = True


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() in TABLES


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """A prompt a row; every other column may be missing, and its cells empty. Further columns are
    not read.
    """
    table = sheet.table
    table.need("prompt")
    table.doubt(("prompt", "concept", "kind", "group", *chain.from_iterable(COLUMNS.values())))
    for row in table.rows:
        yield EvalPrompt(
            row.needed("prompt"),
            row.text("concept"),
            row.choice("kind", KINDS, "plain"),
            row.text("group") or None,
            line=row.line,
            **row.settings(),
        )
