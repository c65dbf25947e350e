"""A prompt a line; blank lines and ``#`` comments are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets import EvalPrompt, Sheet
from forgetcli.recipe import prompt_files

GENERIC = True


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() == ".txt"


def read(sheet: Sheet) -> Iterator[EvalPrompt]:
    """Plain prompts: a text names no concepts."""
    return (EvalPrompt(prompt, line=line) for line, prompt in prompt_files.prompts_in(sheet.text))
