"""The edits of a comparison: each made by ``forget apply`` in a process of its own, and kept for
the next run.

Each edit has a process of its own because peak memory is measured for a whole process, and because
a method may crash. A small JSON file beside each edited folder holds the cost of the edit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetcli import methods, models
from forgetcli.artifact import integrity
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import MANIFEST
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError
from forgetcli.evaluation.run import unused
from forgetcli.evaluation.run_folder import refuse_others
from forgetcli.experiments.comparison.plan import EDITS, RecipePlan, plain
from forgetcli.experiments.comparison.weights import changed_share
from forgetcli.generation.images import DTYPE
from forgetcli.progress import Observer
from forgetcli.recipe import Recipe
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

ERROR = re.compile(r"^error\[([a-z0-9.-]+)\]: (.*)(?:\nhint: (.*))?", re.MULTILINE)
# Kinds of error that every other method would meet too: they end the comparison.
COMMON_FAULTS = ("output", "permission", "io", "usage", "recipe")
MAX_FIGURE = 2**63  # bytes or seconds
GRACE_SECONDS = 60  # for an interrupted edit to remove its temporary files
SCHEMA_VERSION = 1
FIGURES = ("seconds", "peak_rss", "peak_gpu", "changed", "cache")  # kept beside the edit


@dataclass(frozen=True)
class Fault:
    """Why a method has no edit."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class MethodEdit:
    """A method's edit and its cost, or the reason why there is none.

    Attributes:
        seconds: of the edit alone, without imports, loading and writing.
        peak_rss: bytes, of the whole process, imports and model included; that of ``none`` is the
            floor.
        peak_gpu: bytes allocated on a CUDA device; None without one.
        changed: fraction of the parameters whose stored values differ from the base model's.
        cache: {"hits", "misses"} of cached second moments: with hits, the edit was faster than from
            scratch.
        reused: an earlier run made the edit.
    """

    method: str
    folder: Path
    seconds: float | None = None
    peak_rss: int | None = None
    peak_gpu: int | None = None
    changed: float | None = None
    cache: Mapping[str, int] | None = None
    reused: bool = False
    fault: Fault | None = None


def edits_of(
    plan: RecipePlan, *, device: str | None, dtype: str, force: bool, observer: Observer
) -> tuple[MethodEdit, list[MethodEdit]]:
    """The control, which shows how much memory is needed without any edit, and every method's edit.

    Raises:
        ForgetError: nothing can be written, or the control fails: every method would fail too.
    """
    folder = plan.folder / EDITS
    source = folder / "recipe.toml"
    with atomic.output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(source, plan.recipe.raw)
    made: list[MethodEdit] = []
    for number, (use, place) in enumerate(zip(plan.uses, folders_of(plan))):
        is_control = number == 0
        count = "" if is_control else f" ({number} of {len(plan.uses) - 1})"
        observer.stage(f"{plan.name}: {use.method}{count}")
        refuse_others(folder, folders=[place.name], files=[_notes(place).name])
        latest = edit(use, plan.base, place, source=source, device=device, dtype=dtype, force=force)
        made.append(latest)
        if latest.fault is not None:
            if is_control:
                raise ForgetError(latest.fault.code, latest.fault.message, latest.fault.hint)
            observer.note(f"{use.method} failed: {latest.fault.message}")
    observer.done()
    return made[0], made[1:]


def folders_of(plan: RecipePlan) -> list[Path]:
    """The folder of each edit, in the order of `plan.uses`."""
    names: list[str] = []
    for use in plan.uses:
        names.append(unused(plain(use.method), names))
    return [plan.folder / EDITS / name for name in names]


def edit(
    recipe: Recipe,
    base: Base,
    folder: Path,
    *,
    source: Path,
    device: str | None,
    dtype: str,
    force: bool,
) -> MethodEdit:
    """`recipe` applied with its method, in `folder`. An edit in `folder` that was made by exactly
    this recipe, method and base model is kept.

    Args:
        recipe: as used with the method.
        source: a file with the recipe, for the other process.
        force: make the edit again in any case.
    Raises:
        ForgetError: `folder` cannot be written. If the method fails, the result has a `Fault`.
    """
    finished = None if force else existing(recipe, base, folder)
    if finished is not None:
        return finished
    _notes(folder).unlink(missing_ok=True)
    command = _command(
        recipe.method, base=base, folder=folder, source=source, device=device, dtype=dtype
    )
    printed = _apply(command)
    if isinstance(printed, Fault):
        return MethodEdit(recipe.method, folder, fault=printed)
    if (printed["recipe_sha256"], printed["base"]["digest"]) != (recipe.sha256, base.digest):
        raise ForgetError(
            "compare.changed",
            f"the recipe or the model changed while {folder} was made",
            "run it again",
        )
    figures = {
        "seconds": printed["seconds"]["edit"],
        "peak_rss": printed["peak_rss"],
        "peak_gpu": printed["peak_gpu"],
        "changed": changed_share(base, folder, EditedModel(folder).manifest),
        "cache": printed["cache"],
    }
    notes = {
        "schema_version": SCHEMA_VERSION,
        "manifest_sha256": sha256_file(folder / MANIFEST),
        **figures,
    }
    atomic.write_atomically(_notes(folder), (json.dumps(notes, indent=1) + "\n").encode())
    return MethodEdit(recipe.method, folder, **figures)


def _notes(folder: Path) -> Path:
    """The file with the cost of the edit in `folder`."""
    return folder.with_name(f"{folder.name}.json")


def existing(recipe: Recipe, base: Base, folder: Path) -> MethodEdit | None:
    """The edit in `folder`, if it is complete, was made by this recipe, method and base model, and
    its cost is known.
    """
    schema = methods.get(recipe.method).Parameters
    used = recipe.on(models.family_of(base.settings)).parameters
    parameters = schema.model_validate(used).model_dump(mode="json")
    try:
        edited = EditedModel(folder)
        manifest = edited.manifest
        notes = json.loads(_notes(folder).read_text(encoding="utf-8"))
        same = (
            manifest.recipe_sha256 == recipe.sha256
            and manifest.method == recipe.method
            and manifest.parameters == parameters
            and manifest.base_digest == base.digest
            and notes["manifest_sha256"] == sha256_file(folder / MANIFEST)
        )
        figures = {name: notes[name] for name in FIGURES}
        same = same and all(_is_figure(name, value) for name, value in figures.items())
    except (ForgetError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not same or not integrity.verify(edited).ok:
        return None
    return MethodEdit(recipe.method, folder, **figures, reused=True)


def _is_figure(name: str, value: object) -> bool:
    """Whether a value in the notes is what this version writes under that name."""
    if value is None:
        return True
    if name == "cache":
        return isinstance(value, dict) and all(type(count) is int for count in value.values())
    return type(value) in (int, float) and 0 <= value < MAX_FIGURE  # type: ignore[operator]


def _apply(command: Sequence[str]) -> dict | Fault:
    """The object that `command`, ``forget apply --json``, printed, or the error that it stopped
    with.

    Raises:
        ForgetError: an error that would stop every other method too.
    """
    child = subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        printed, messages = child.communicate()
    finally:
        # Ctrl-C, or another reason that stops this process, must not leave the child running.
        if child.poll() is None:
            _stop(child)
    if child.returncode == 0:
        return json.loads(printed)
    fault = _fault(messages, child.returncode)
    if fault.code.partition(".")[0] in COMMON_FAULTS:
        raise ForgetError(fault.code, fault.message, fault.hint)
    return fault


def _command(
    method: str, *, base: Base, folder: Path, source: Path, device: str | None, dtype: str
) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "forgetcli"),
        *("apply", str(source.absolute())),
        *("--method", method),
        *("--model", base.reference),
        *("--output", str(folder.absolute())),
        *("--lenient", "--force", "--json", "--quiet"),
        *(["--config", str(base.config)] if base.config else []),
        *(["--device", device] if device else []),
        *(["--dtype", dtype] if dtype != DTYPE else []),
    ]


def _stop(child: subprocess.Popen[str]) -> None:
    """End the child, with time to remove its temporary files."""
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _fault(messages: str, code: int) -> Fault:
    """The reason why an edit's process ended with an exit code other than 0.

    Args:
        messages: its standard error.
    """
    match = ERROR.search(messages)
    if match:
        return Fault(code=match[1], message=match[2], hint=match[3] or "")
    if code < 0:
        name = signal.Signals(-code).name
        return Fault(
            code="killed",
            message=f"the edit was ended by {name}",
            hint="too little memory?" if name == "SIGKILL" else "",
        )
    last = (messages.strip().splitlines() or ["it said nothing"])[-1]
    return Fault(code="internal", message=f"the edit ended with exit code {code}: {last}")


def _environment() -> dict[str, str]:
    """This process's environment and module path, without the FORGET_* variables that would be
    flags of ``apply``.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FORGET_") or name in ("FORGET_CACHE_DIR", "FORGET_DEBUG")
    }
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONUTF8": "1",
    }
