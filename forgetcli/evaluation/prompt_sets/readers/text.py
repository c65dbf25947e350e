"""One prompt for each line. Blank lines and ``#`` comments are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgetcli.evaluation.prompt_sets.prompts import EvalPrompt
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.recipe import prompt_files

GENERIC = True


def matches(path: Path, header: tuple[str, ...]) -> bool:
    return path.suffix.lower() == ".txt"


def read(sheet: Source) -> Iterator[EvalPrompt]:
    """Plain prompts, without concepts."""
    return (EvalPrompt(prompt, line=line) for line, prompt in prompt_files.prompts_in(sheet.text))
