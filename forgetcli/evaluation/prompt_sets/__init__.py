"""Prompt sets to evaluate with: one file per format. No torch.

A format is a module, here or behind an entry point of the group ``forgetcli.prompt_sets``, with

    matches(path, header) -> bool      whether a file has this format. `header`: the columns of a
                                       CSV (.csv, .tsv or .tab), the top-level keys of a TOML file,
                                       empty for other files
    read(sheet) -> prompts             its EvalPrompts, in order. Every fault of the file goes to
                                       `sheet.fault`
    GENERIC = True                     optional: for files that no other format matches

The name of a format is the file's name or the entry point's. Files whose name begins with an
underscore are not formats.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from forgetcli import plugins
from forgetcli.errors import ForgetError
from forgetcli.evaluation.prompt_sets.prompts import KINDS, EvalPrompt, Kind, PromptSet
from forgetcli.evaluation.prompt_sets.sheet import Sheet
from forgetcli.evaluation.prompt_sets.source import PromptSetError

__all__ = [
    "KINDS",
    "EvalPrompt",
    "Kind",
    "PromptSet",
    "PromptSetError",
    "Sheet",
    "formats",
    "load",
]

READERS = f"{__name__}.readers"
GROUP = "forgetcli.prompt_sets"
MAX_PROMPTS = 200_000  # the largest known prompt set has 4,703
LINES_LISTED = 6  # in a warning, before it says "…"


def formats() -> list[str]:
    """Every format that `load` takes, sorted."""
    return plugins.names(READERS, GROUP)


def load(path: str | Path, format: str | None = None) -> PromptSet:
    """The prompt set in a file. A prompt that repeats an earlier one is left out, with a warning.

    Args:
        format: one of `formats()`. None: recognised by the file's name and header.
    Raises:
        PromptSetError: with every fault of the file.
        ForgetError: there is no such format, or the format cannot be recognised
            (``prompts.unknown-format``).
    """
    path = Path(path)
    module = None if format is None else _module(format)
    sheet = Sheet.of(path)
    if format is None or module is None:
        format, module = _recognised(sheet)
    prompts = list(itertools.islice(module.read(sheet), MAX_PROMPTS + 1))
    if len(prompts) > MAX_PROMPTS:
        raise sheet.refusal(
            "too-many", 0, f"more than {MAX_PROMPTS:,} prompts", "split it into several files"
        )
    sheet.settle()
    if not prompts:
        raise sheet.empty()
    distinct, repeated_lines = _distinct(prompts)
    if repeated_lines:
        sheet.warn(0, _repetitions(repeated_lines))
    return PromptSet(
        name=path.stem,
        source=path,
        format=format,
        sha256=hashlib.sha256(sheet.raw).hexdigest(),
        prompts=distinct,
        warnings=tuple(sheet.warnings),
    )


def _module(name: str) -> ModuleType:
    try:
        return plugins.find(READERS, GROUP, name, "prompts.unknown-format", "prompt-set format")
    except ForgetError as error:
        if error.code != "plugin.broken":
            raise
        raise ForgetError("prompts.broken-format", error.message, error.hint) from error


def _recognised(sheet: Sheet) -> tuple[str, ModuleType]:
    """The format of a file, by the file's name and header."""
    names = formats()
    matching: dict[str, ModuleType] = {}
    for name in names:
        try:
            module = _module(name)
        except ForgetError as broken:
            # The other formats still work.
            sheet.warnings.append(broken.message)
            continue
        if module.matches(sheet.path, sheet.header):
            matching[name] = module
    special = {
        name: module for name, module in matching.items() if not getattr(module, "GENERIC", False)
    }
    matching = special or matching
    if len(matching) == 1:
        return matching.popitem()
    if matching:
        what = f"it can be {' or '.join(matching)}"
    else:
        what = "its name and first line do not tell its format"
    raise ForgetError(
        "prompts.unknown-format",
        f"{sheet.path}: {what}",
        f"name the format, one of: {', '.join(matching or names)}",
    )


def _distinct(prompts: Iterable[EvalPrompt]) -> tuple[tuple[EvalPrompt, ...], list[int]]:
    """The prompts without those that repeat an earlier one, and the lines of the repetitions.

    Prompts are equal if they differ in nothing but the line.
    """
    first: dict[tuple, EvalPrompt] = {}
    repeated_lines = [
        p.line
        for p in prompts
        if first.setdefault((p.picture, p.concept, p.kind, p.group), p) is not p
    ]
    return tuple(first.values()), repeated_lines


def _repetitions(repeated_lines: Sequence[int]) -> str:
    lines = sorted(set(repeated_lines))
    listed = ", ".join(map(str, lines[:LINES_LISTED]))
    if len(lines) > LINES_LISTED:
        listed += ", …"
    count = len(repeated_lines)
    line = "line" if len(lines) == 1 else "lines"
    what = "1 prompt that repeats" if count == 1 else f"{count} prompts that repeat"
    return f"{what} an earlier one left out: {line} {listed}"
