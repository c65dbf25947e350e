"""The edits of a comparison. Each is made by ``forget apply`` in its own process, and a later run
can use it again.

Each edit has its own process because peak memory is measured per process, and because a method may
crash. A small JSON file beside each edited folder has the cost of the edit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from forgetcli.process import distributed
from forgetcli.process.device import AUTO
from forgetcli.progress import Observer
from forgetcli.recipe import Recipe
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

ERROR = re.compile(r"^error\[([a-z0-9.-]+)\]: (.*)(?:\nhint: (.*))?", re.MULTILINE)
# Error kinds that would stop every other method too. They end the comparison.
COMMON_FAULTS = ("output", "permission", "io", "usage", "recipe")
MAX_FIGURE = 2**63  # bytes or seconds
GRACE_SECONDS = 60  # an interrupted edit gets this time to remove its temporary files
SCHEMA_VERSION = 1
FIGURES = ("seconds", "peak_rss", "peak_gpu", "changed", "cache")  # recorded beside the edit


@dataclass(frozen=True)
class Fault:
    """The error because of which a method has no edit."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class MethodEdit:
    """A method's edit and its cost, or the reason why there is none.

    Attributes:
        seconds: duration of the edit alone, without imports, loading and writing.
        peak_rss: peak memory of the whole process in bytes, imports and model included. The value
            of the method ``none`` is the floor.
        peak_gpu: peak memory allocated on a CUDA device in bytes; None without such a device.
        changed: fraction of the parameters whose stored values differ from the base model's.
        cache: {"hits", "misses"} in the cache of second moments. With hits, the edit took less time
            than it takes with an empty cache.
        reused: whether an earlier run made the edit.
        fault: the reason why there is no edit.
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
    """The control and the edit of every method. The control shows the memory use without an edit.

    The edits are shared out among the processes of one run.

    Raises:
        ForgetError: nothing can be written, or the control fails, because then every method would
            fail too.
    """
    folder = plan.folder / EDITS
    source = folder / "recipe.toml"
    with atomic.output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    processes = distributed.current()
    if processes.main:
        atomic.write_atomically(source, plan.recipe.raw)
    processes.wait()

    def one(job: tuple[int, Recipe, Path]) -> MethodEdit:
        number, use, place = job
        count = f" ({number} of {len(plan.uses) - 1})" if number else ""
        observer.stage(f"{plan.name}: {use.method}{count}")
        refuse_others(folder, folders=[place.name], files=[_cost_file(place).name])
        made = edit(use, plan.base, place, source=source, device=device, dtype=dtype, force=force)
        if made.fault is not None and number == 0:
            raise ForgetError(made.fault.code, made.fault.message, made.fault.hint)
        if made.fault is not None:
            observer.note(f"{use.method} failed: {made.fault.message}")
        return made

    jobs = list(zip(range(len(plan.uses)), plan.uses, folders_of(plan)))
    control, *edits = processes.share(jobs, one)
    observer.done()
    return control, edits


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
    """Apply `recipe` with its method, and write the edited model to `folder`.

    If `folder` already has an edit by exactly this recipe, method and base model, it is used again.

    Args:
        recipe: the recipe as used with the method.
        source: a file with the recipe, for the other process.
        force: always make the edit again.
    Returns:
        the edit. If the method failed, it has a `Fault`.
    Raises:
        ForgetError: `folder` cannot be written.
    """
    finished = None if force else existing(recipe, base, folder)
    if finished is not None:
        return finished
    _cost_file(folder).unlink(missing_ok=True)
    command = _command(
        recipe.method, base=base, folder=folder, source=source, device=device, dtype=dtype
    )
    printed = _apply(command)
    if isinstance(printed, Fault):
        return MethodEdit(recipe.method, folder, fault=printed)
    if (printed["recipe_sha256"], printed["base"]["digest"]) != (recipe.sha256, base.digest):
        raise ForgetError(
            "compare.changed",
            f"the recipe or the model changed while {folder} was written",
            "run the comparison again",
        )
    figures = {
        "seconds": printed["seconds"]["edit"],
        "peak_rss": printed["peak_rss"],
        "peak_gpu": printed["peak_gpu"],
        "changed": changed_share(base, folder, EditedModel(folder).manifest),
        "cache": printed["cache"],
    }
    record = {
        "schema_version": SCHEMA_VERSION,
        "manifest_sha256": sha256_file(folder / MANIFEST),
        **figures,
    }
    atomic.write_atomically(_cost_file(folder), (json.dumps(record, indent=1) + "\n").encode())
    return MethodEdit(recipe.method, folder, **figures)


def _cost_file(folder: Path) -> Path:
    """The file with the cost of the edit in `folder`."""
    return folder.with_name(f"{folder.name}.json")


def existing(recipe: Recipe, base: Base, folder: Path) -> MethodEdit | None:
    """The edit in `folder`. None if it is incomplete, if it is not by this recipe, method and base
    model, or if its cost is unknown.
    """
    schema = methods.get(recipe.method).Parameters
    used = recipe.on(models.family_of(base.settings)).parameters
    parameters = schema.model_validate(used).model_dump(mode="json")
    try:
        edited = EditedModel(folder)
        manifest = edited.manifest
        record = json.loads(_cost_file(folder).read_text(encoding="utf-8"))
        is_same_edit = (
            manifest.recipe_sha256 == recipe.sha256
            and manifest.method == recipe.method
            and manifest.parameters == parameters
            and manifest.base_digest == base.digest
            and record["manifest_sha256"] == sha256_file(folder / MANIFEST)
        )
        figures = {name: record[name] for name in FIGURES}
    except (ForgetError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_valid = all(_is_figure(name, value) for name, value in figures.items())
    if not is_same_edit or not is_valid or not integrity.verify(edited).ok:
        return None
    return MethodEdit(recipe.method, folder, **figures, reused=True)


def _is_figure(name: str, value: object) -> bool:
    """Whether a value in a cost file is one that this version could have written."""
    if value is None:
        return True
    if name == "cache":
        return isinstance(value, dict) and all(type(count) is int for count in value.values())
    return type(value) in (int, float) and 0 <= value < MAX_FIGURE  # type: ignore[operator]


def _apply(command: Sequence[str]) -> dict | Fault:
    """Run ``forget apply --json``, and return its output or its error.

    Raises:
        ForgetError: an error that would stop every other method too.
    """
    code, printed, messages = _run(command)
    if code == 0:
        return json.loads(printed)
    fault = _fault(messages, code)
    if fault.code.partition(".")[0] in COMMON_FAULTS:
        raise ForgetError(fault.code, fault.message, fault.hint)
    return fault


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, its output, its messages."""
    child = None
    try:
        with _signals_wait():
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
        printed, messages = child.communicate()
    finally:
        # If this process is interrupted, the child must not keep running.
        if child is not None and child.poll() is None:
            _stop(child)
    return child.returncode, printed, messages


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and kill wait until the child is known: an exception within `Popen` would leave it
    running. The child is born with the signals blocked, and `cli.signals.install` lets them in.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        *(["--dtype", dtype] if dtype != AUTO else []),
    ]


def _stop(child: subprocess.Popen[str]) -> None:
    """End the child, and give it time to remove its temporary files."""
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _fault(messages: str, code: int) -> Fault:
    """The reason why an edit's process ended with an exit code other than 0.

    Args:
        messages: the process's standard error.
        code: its exit code.
    """
    match = ERROR.search(messages)
    if match:
        return Fault(code=match[1], message=match[2], hint=match[3] or "")
    if code < 0:
        name = signal.Signals(-code).name
        return Fault(
            code="killed",
            message=f"the edit's process was ended by {name}",
            hint="too little memory?" if name == "SIGKILL" else "",
        )
    last = (messages.strip().splitlines() or ["no error message"])[-1]
    return Fault(code="internal", message=f"the edit ended with exit code {code}: {last}")


def _environment() -> dict[str, str]:
    """This process's environment and module path.

    FORGET_* variables are left out, because they would set options of ``apply``, and a launcher's
    number of processes, because the edit is none of them.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("FORGET_") or name in ("FORGET_CACHE_DIR", "FORGET_DEBUG"))
        and name not in distributed.SIZES
    }
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONUTF8": "1",
    }
