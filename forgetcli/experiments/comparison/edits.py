"""The edits of a comparison: each made by ``forget apply`` in a process of its own, and kept for
the next time.

A process of its own because peak memory is a process's, and because a method may crash. Beside each
edited folder a
small JSON file keeps what the edit took.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forgetcli import methods, models
from forgetcli.artifact import provenance
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError
from forgetcli.experiments.comparison.weights import changed_share
from forgetcli.recipe import Recipe
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

ERROR = re.compile(r"^error\[([a-z0-9.-]+)\]: (.*)(?:\nhint: (.*))?", re.MULTILINE)
OUTPUT_FAULTS = (
    "output",
    "permission",
    "io",
    "usage",
    "recipe",
)  # what no other method would escape
GRACE = 60  # seconds that an interrupted edit has to clear up
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Fault:
    """Why a method has no edit."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Edited:
    """A method's edit and what it took, or why there is none.

    Attributes:
        seconds: of the edit alone, without imports, loading and writing.
        peak_rss: bytes, of the whole process, imports and model included; that of ``none`` is the
            floor.
        peak_gpu: bytes allocated on a CUDA device; None without one.
        changed: share of the model's parameters whose stored values differ from the base's.
        cache: {"hits", "misses"} of cached second moments: with hits it was quicker than from
            scratch.
        reused: it was there already.
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


FIGURES = ("seconds", "peak_rss", "peak_gpu", "changed", "cache")  # what is kept beside the edit


def edit(
    recipe: Recipe, base: Base, folder: Path, *, source: Path, device: str | None, anew: bool
) -> Edited:
    """`recipe` applied with its method, in `folder`; what is there already, made by just this, is
    kept.

    Args:
        recipe: as used with the method.
        source: a file with the recipe, for the other process.
        anew: make it again in any case.
    Raises:
        ForgetError: `folder` cannot be written to. That a method fails is a `Fault`.
    """
    kept = None if anew else _kept(recipe, base, folder)
    if kept is not None:
        return kept
    _notes(folder).unlink(missing_ok=True)
    printed = _apply(recipe.method, base, folder, source, device)
    if isinstance(printed, Fault):
        return Edited(recipe.method, folder, fault=printed)
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
        "changed": changed_share(base, folder, provenance.load(folder)),
        "cache": printed["cache"],
    }
    notes = {
        "schema_version": SCHEMA_VERSION,
        "manifest_sha256": sha256_file(folder / provenance.MANIFEST),
        **figures,
    }
    atomic.write_atomically(_notes(folder), (json.dumps(notes, indent=1) + "\n").encode())
    return Edited(recipe.method, folder, **figures)


def _notes(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _kept(recipe: Recipe, base: Base, folder: Path) -> Edited | None:
    """The edit in `folder`, if it is whole and was made by this recipe, method and base, and what
    it took is known.
    """
    parameters = recipe.on(models.family_of(base.settings)).parameters
    wanted = (
        methods.get(recipe.method).Parameters.model_validate(parameters).model_dump(mode="json")
    )
    try:
        manifest = provenance.load(folder)
        notes = json.loads(_notes(folder).read_text())
        same = (
            manifest.recipe_sha256,
            manifest.method,
            manifest.parameters,
            manifest.base_digest,
        ) == (recipe.sha256, recipe.method, wanted, base.digest) and notes[
            "manifest_sha256"
        ] == sha256_file(folder / provenance.MANIFEST)
        figures = {name: notes[name] for name in FIGURES}
    except (ForgetError, OSError, ValueError, KeyError, TypeError):
        return None
    return (
        Edited(recipe.method, folder, **figures, reused=True)
        if same and provenance.verify(folder).ok
        else None
    )


def _apply(method: str, base: Base, folder: Path, source: Path, device: str | None) -> dict | Fault:
    """What ``forget apply --json`` printed, or what it stopped with.

    Raises:
        ForgetError: it cannot write; that would stop every other method too.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "forgetcli",
        "apply",
        str(source.absolute()),
        "--method",
        method,
        "--model",
        base.reference,
        "--output",
        str(folder.absolute()),
        "--lenient",
        "--force",
        "--json",
        "--quiet",
        *(["--config", str(base.config)] if base.config else []),
        *(["--device", device] if device else []),
    ]
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
        printed, said = child.communicate()
    finally:
        if child.poll() is None:  # Ctrl-C, or whatever stops this process: not without the child
            child.terminate()
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    if child.returncode == 0:
        return json.loads(printed)
    fault = _fault(said, child.returncode)
    if fault.code.partition(".")[0] in OUTPUT_FAULTS:
        raise ForgetError(fault.code, fault.message, fault.hint)
    return fault


def _fault(said: str, code: int) -> Fault:
    found = ERROR.search(said)
    if found:
        return Fault(found[1], found[2], found[3] or "")
    if code < 0:
        name = signal.Signals(-code).name
        return Fault(
            "killed",
            f"the edit was ended by {name}",
            "too little memory?" if name == "SIGKILL" else "",
        )
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return Fault("internal", f"the edit ended with exit code {code}: {last}")


def _environment() -> dict[str, str]:
    """This process's, and the same modules; but no FORGET_* variable that would be a flag of
    ``apply``.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FORGET_") or name in ("FORGET_CACHE_DIR", "FORGET_DEBUG")
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONUTF8": "1",
    }
