"""The prompts that a recipe preserves: its own, and those of the prompt files that it names."""

from __future__ import annotations

from pathlib import Path

from forgetcli.errors import ForgetError
from forgetcli.recipe import prompt_files
from forgetcli.recipe import usage as records
from forgetcli.recipe.consistency import PreservedPrompt
from forgetcli.recipe.model import Document
from forgetcli.recipe.problems import Sheet
from forgetcli.recipe.toml_lines import KeyPath


def preserved(
    document: Document,
    record: records.Record,
    sheet: Sheet,
    source: Path | None,
) -> tuple[list[PreservedPrompt], dict[str, tuple[str, ...]], list[ForgetError]]:
    """All prompts to preserve.

    Returns:
        the prompts, the prompts of each file (read now, or recorded in the recipe), and the faults.
    """
    own = [
        PreservedPrompt(prompt, ("preserve", "prompts", i))
        for i, prompt in enumerate(document.preserve.prompts)
    ]
    listed, files, problems = from_files("files", document, record, sheet, source)
    return own + listed, files, problems


def from_files(
    key: str,
    document: Document,
    record: records.Record,
    sheet: Sheet,
    source: Path | None,
) -> tuple[list[PreservedPrompt], dict[str, tuple[str, ...]], list[ForgetError]]:
    """The prompts of the files that ``[preserve] KEY`` names.

    Returns:
        the prompts, the prompts of each file (read now, or recorded in the recipe), and the faults.
    """
    prompts: list[PreservedPrompt] = []
    files: dict[str, tuple[str, ...]] = {}
    problems = []
    for index, name in enumerate(getattr(document.preserve, key)):
        path: KeyPath = ("preserve", key, index)
        folder = source.parent if source else Path()
        file = folder / name
        try:
            if name in record.files:
                lines = list(enumerate(record.files[name], start=1))
            else:
                lines = prompt_files.read(prompt_files.beside(folder, name))
        except ForgetError as error:
            problems.append(prompt_files.unreadable(error, path, sheet))
            continue
        files[name] = tuple(prompt for _, prompt in lines)
        prompts += [PreservedPrompt(prompt, path, f"{file}:{line}") for line, prompt in lines]
    return prompts, files, problems
