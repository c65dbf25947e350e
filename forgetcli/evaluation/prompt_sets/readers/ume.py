"""The CSV of the U&ME challenge: a concept a row, with direct, indirect and adversarial prompts in
columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets import EvalPrompt, Sheet
from forgetcli.evaluation.prompt_sets.sheet import TABLES

_PROMPTS = re.compile(r"(direct|indirect)_prompt_\d+|(adversarial)_prompt(_\d+)?", re.ASCII)
_NEEDED = tuple(
    f"{kind}_prompt_{number}" for kind in ("direct", "indirect") for number in range(1, 6)
)


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in TABLES
        and "prompt" not in header
        and any(map(_PROMPTS.fullmatch, header))
    )


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """Every prompt of every concept, kind by kind; ``concept_type`` is the group. An adversarial
    cell may be empty.
    """
    table = sheet.table
    table.need("concept_type", "concept_name", *_NEEDED)
    columns = [
        (found[1] or found[2], found[0])
        for found in map(_PROMPTS.fullmatch, table.columns)
        if found
    ]
    for row in table.rows:
        group, concept = row.needed("concept_type"), row.needed("concept_name")
        for kind in ("direct", "indirect", "adversarial"):
            for column in (name for its_kind, name in columns if its_kind == kind):
                prompt = row.text(column) if kind == "adversarial" else row.needed(column)
                if prompt:
                    yield EvalPrompt(prompt, concept, kind, group, line=row.line)
