"""The format of this tool: concepts with their prompts, written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets.document import Document
from forgetcli.evaluation.prompt_sets.prompts import EvalPrompt, Kind
from forgetcli.evaluation.prompt_sets.settings import KEYS
from forgetcli.evaluation.prompt_sets.source import Source

GENERIC = True

_LISTS: tuple[Kind, ...] = ("direct", "indirect", "adversarial")


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() == ".toml"


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """The prompts of each concept, by kind. The settings at the top apply to all prompts."""
    document = Document(sheet)
    concepts = document.tables("concepts")
    if "retain" in document.data or any("target" in table for _, table in concepts):
        raise sheet.refusal(
            "is-recipe",
            0,
            "this is a recipe, not a prompt set",
            "give the recipe itself: it has its evaluation prompts, or names their file",
        )
    document.known((), document.data, (*KEYS, "concepts"))
    settings = document.settings()
    for path, table in concepts:
        document.known(path, table, ("concept", "group", *_LISTS))
        concept = document.text(path, table, "concept", needed=True)
        group = document.text(path, table, "group") or None
        if not any(table.get(kind) for kind in _LISTS):
            document.fault(
                path, "[[concepts]] has no prompts", f"list them under any of: {', '.join(_LISTS)}"
            )
        for kind in _LISTS:
            for line, prompt in document.texts(path, table, kind):
                yield EvalPrompt(prompt, concept, kind, group, line=line, **settings)
