"""Prompt sets to evaluate with: one file per format. No torch.

A format is a module, here or behind an entry point of the group ``forgetcli.prompt_sets``, with

    matches(path, header) -> bool      whether a file is of this format; `header` holds the columns
                                       of a CSV (its name
                                       ends in .csv, .tsv or .tab), the top-level keys of a TOML
                                       file, and else nothing
    read(sheet) -> prompts             its EvalPrompts, in order; what is wrong goes to
                                       `sheet.fault`, all of it
    GENERIC = True                     optional: takes what no other format matches

Its name is the file's name or the entry point's. Files whose name begins with an underscore are no
formats.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

from forgetcli.errors import ForgetError
from forgetcli.evaluation.prompt_sets import readers
from forgetcli.evaluation.prompt_sets.sheet import PromptSetError, Sheet

__all__ = ["EvalPrompt", "PromptSet", "PromptSetError", "Sheet", "formats", "load"]

GROUP = "forgetcli.prompt_sets"
_LISTED = 6  # lines that a warning names before it says "…"

Kind = Literal["direct", "indirect", "adversarial", "plain"]
KINDS: tuple[Kind, ...] = ("direct", "indirect", "adversarial", "plain")


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt to draw, and the concept to look for in its picture.

    A prompt that asks for several concepts is several of these, equal in `picture`.

    Args:
        concept: in the set's own words; empty where the set names none.
        kind: direct names the concept, indirect hints at it, adversarial tries to get round the
            edit.
        group: concepts of one group exclude one another in a picture.
        seed, guidance, width, height, steps: as the set has them; None leaves them to the
            evaluation.
        line: of the file, from 1.
    """

    prompt: str
    concept: str = ""
    kind: Kind = "plain"
    group: str | None = None
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    line: int = 0

    @property
    def picture(self) -> tuple[str, int | None, float | None, int | None, int | None, int | None]:
        """What is drawn: prompts that agree in it ask about one and the same picture."""
        return self.prompt, self.seed, self.guidance, self.width, self.height, self.steps


@dataclass(frozen=True)
class PromptSet:
    """A file of prompts, read and checked.

    Args:
        format: one of `formats()`.
        sha256: digest of the file's bytes, hexadecimal.
        warnings: what is allowed and probably not meant, one line each.
    """

    name: str
    source: Path
    format: str
    sha256: str
    prompts: tuple[EvalPrompt, ...]
    warnings: tuple[str, ...] = ()


def formats() -> list[str]:
    """Every format that `load` takes, sorted."""
    return sorted(_found())


def load(path: str | Path, format: str | None = None) -> PromptSet:
    """The prompt set in a file. A prompt that repeats an earlier one in everything but its line
    counts once.

    Args:
        format: one of `formats()`; told from the file's name and header if None.
    Raises:
        PromptSetError: with every fault of the file.
        ForgetError: there is no such format, or which one it is cannot be told
            (``prompts.unknown-format``).
    """
    path, found = Path(path), _found()
    if format is not None and format not in found:
        near = get_close_matches(format, found, 1)
        raise ForgetError(
            "prompts.unknown-format",
            f"there is no prompt-set format '{format}'",
            f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(found))}",
        )
    sheet = Sheet.of(path)
    name, module = (
        _told(sheet, found) if format is None else (format, _module(format, found[format]))
    )
    read = list(module.read(sheet))
    sheet.settle()
    if not read:
        raise sheet.empty()
    prompts, repeats = _once(read)
    if repeats:
        lines = sorted(set(repeats))
        listed = ", ".join(map(str, lines[:_LISTED])) + (", …" if len(lines) > _LISTED else "")
        what = (
            "1 prompt that repeats" if len(repeats) == 1 else f"{len(repeats)} prompts that repeat"
        )
        sheet.warn(
            0, f"{what} an earlier one left out: line{'s' if len(lines) > 1 else ''} {listed}"
        )
    return PromptSet(
        path.stem, path, name, hashlib.sha256(sheet.raw).hexdigest(), prompts, tuple(sheet.warnings)
    )


def _once(read: Iterable[EvalPrompt]) -> tuple[tuple[EvalPrompt, ...], list[int]]:
    """The prompts without repetitions, and the lines of those."""
    first: dict[tuple, EvalPrompt] = {}
    repeats = [
        p.line
        for p in read
        if first.setdefault((p.picture, p.concept, p.kind, p.group), p) is not p
    ]
    return tuple(first.values()), repeats


def _found() -> dict[str, str | EntryPoint]:
    """Formats by name: the module here, or the entry point. Those here win."""
    local = {
        m.name.replace("_", "-"): m.name
        for m in pkgutil.iter_modules(readers.__path__)
        if not m.name.startswith("_")
    }
    return {**{point.name: point for point in entry_points(group=GROUP)}, **local}


def _module(name: str, where: str | EntryPoint) -> ModuleType:
    if isinstance(where, str):
        return importlib.import_module(f"{readers.__name__}.{where}")
    try:
        return where.load()
    except Exception as error:  # a stranger's code: anything can happen
        what = f"the prompt-set format '{name}' ({where.value}) cannot be loaded"
        raise ForgetError(
            "prompts.broken-format",
            f"{what}: {type(error).__name__}: {error}",
            "update or uninstall the package that it comes from",
        ) from error


def _told(sheet: Sheet, found: dict[str, str | EntryPoint]) -> tuple[str, ModuleType]:
    """The format of a file, told from its name and header."""
    matching: dict[str, ModuleType] = {}
    for name, where in sorted(found.items()):
        try:
            module = _module(name, where)
        except ForgetError as broken:
            sheet.warnings.append(broken.message)  # the other formats work all the same
            continue
        if module.matches(sheet.path, sheet.header):
            matching[name] = module
    special = {
        name: module for name, module in matching.items() if not getattr(module, "GENERIC", False)
    }
    matching = special or matching
    if len(matching) == 1:
        return matching.popitem()
    what = (
        f"it can be {' or '.join(matching)}"
        if matching
        else "its name and first line do not tell its format"
    )
    raise ForgetError(
        "prompts.unknown-format",
        f"{sheet.path}: {what}",
        f"name the format, one of: {', '.join(matching or sorted(found))}",
    )
