"""forget's own format: concepts with their prompts, to be written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets import EvalPrompt, Sheet
from forgetcli.evaluation.prompt_sets.settings import KEYS

GENERIC = True

_LISTS = ("direct", "indirect", "adversarial")


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() == ".toml"


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """Concept by concept, kind by kind; the settings at the top hold for every prompt."""
    document = sheet.document
    concepts = document.tables("concepts")
    if "retain" in document.data or any("target" in table for _, table in concepts):
        raise sheet.refusal(
            "is-recipe",
            0,
            "this is a recipe, not a prompt set",
            "a recipe has its evaluation prompts in itself: give it as the recipe",
        )
    document.known((), document.data, (*KEYS, "concepts"))
    settings = document.settings()
    for path, table in concepts:
        document.known(path, table, ("concept", "group", *_LISTS))
        concept, group = (
            document.text(path, table, "concept", needed=True),
            document.text(path, table, "group") or None,
        )
        if not any(table.get(kind) for kind in _LISTS):
            document.fault(
                path, "[[concepts]] has no prompts", f"list them under any of: {', '.join(_LISTS)}"
            )
        for kind in _LISTS:
            for line, prompt in document.texts(path, table, kind):
                yield EvalPrompt(prompt, concept, kind, group, line=line, **settings)
