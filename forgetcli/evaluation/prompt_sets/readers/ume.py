"""The CSV of the U&ME challenge: one concept for each row, with its prompts in columns.

There are columns for direct, indirect and adversarial prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets.prompts import EvalPrompt, Kind
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.evaluation.prompt_sets.table import SUFFIXES, Table

_PROMPTS = re.compile(r"(direct|indirect)_prompt_\d+|(adversarial)_prompt(_\d+)?", re.ASCII)
_KINDS: tuple[Kind, ...] = ("direct", "indirect", "adversarial")
_NEEDED = tuple(
    f"{kind}_prompt_{number}" for kind in ("direct", "indirect") for number in range(1, 6)
)


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and "prompt" not in header
        and any(map(_PROMPTS.fullmatch, header))
    )


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """The prompts of each concept, by kind. ``concept_type`` is the group.

    Only adversarial cells may be empty.
    """
    table = Table(sheet)
    table.need("concept_type", "concept_name", *_NEEDED)
    columns = [
        (match[1] or match[2], match[0])
        for match in map(_PROMPTS.fullmatch, table.columns)
        if match
    ]
    for row in table.rows:
        group = row.needed("concept_type")
        concept = row.needed("concept_name")
        for kind in _KINDS:
            for column in (name for kind_of_column, name in columns if kind_of_column == kind):
                prompt = row.text(column) if kind == "adversarial" else row.needed(column)
                if prompt:
                    yield EvalPrompt(prompt, concept, kind, group, line=row.line)
