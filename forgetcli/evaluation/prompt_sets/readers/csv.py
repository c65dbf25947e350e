"""Any CSV or TSV with a column of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from forgetcli.evaluation.prompt_sets.prompts import KINDS, EvalPrompt
from forgetcli.evaluation.prompt_sets.settings import COLUMNS
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.evaluation.prompt_sets.table import SUFFIXES, Table

GENERIC = True


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() in SUFFIXES


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """One prompt for each row. All other columns and cells are optional."""
    table = Table(sheet)
    table.need("prompt")
    table.doubt(("prompt", "concept", "kind", "group", *chain.from_iterable(COLUMNS.values())))
    for row in table.rows:
        yield EvalPrompt(
            prompt=row.needed("prompt"),
            concept=row.text("concept"),
            kind=row.choice("kind", KINDS, "plain"),
            group=row.text("group") or None,
            line=row.line,
            **row.settings(),
        )
