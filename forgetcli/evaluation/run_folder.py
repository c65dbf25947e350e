"""The output folder of a run: recognised, cleared with --force, and marked.

A run writes ``run.json``, which says what the images were made with, and folders: one for each
model, one for the verdicts. Each folder contains an empty marker file, which proves that this tool
made it. Folders without the marker are never deleted, and no file's content is used to decide
what is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetcli.errors import ForgetError
from forgetcli.storage import atomic

SCHEMA_VERSION = 1
RUN = "run.json"
VERDICTS = "verdicts"


def claim(output: Path, identity: Mapping[str, Any], force: bool, also: Sequence[str] = ()) -> None:
    """Prepare `output` for this run: a new folder, or one of an earlier run with equal `identity`.

    The folders of the run are made and marked. With `force`, the folders of another run are
    deleted, if their markers prove that this tool made them.

    Args:
        output: the folder.
        identity: everything that the images depend on. The keys of `models` are the names of the
            models, and so of their folders. Without any, the run has no images of its own.
        also: names of what else such a run writes directly in `output`. A name with a suffix is a
            file, any other a folder.

    Raises:
        ForgetError: `output` contains another run and `force` is not given (``eval.other-run``), or
            something that this tool did not make is in the way (``eval.not-ours``).
        OutputError: `output` cannot be read or written.
    """
    current = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **identity}))
    files = [name for name in also if Path(name).suffix]
    models = list(current.get("models", {}))
    folders = [
        *models,
        *([VERDICTS] if models else []),
        *(name for name in also if name not in files),
    ]
    earlier = _earlier(output)
    with atomic.output_faults(output):
        if earlier is not None and earlier != current:
            _refuse_unless(force, output, earlier, current)
            _clear(output, folders, files)
        output.mkdir(parents=True, exist_ok=True)
        if earlier != current:
            atomic.write_atomically(output / RUN, json.dumps(current, indent=1).encode())
        for name in folders:
            _make(output / name)


def is_ours(folder: Path) -> bool:
    """Whether the marker in `folder` proves that `claim` made it: a directory, and no link."""
    marker = folder / marker_of(folder.name)
    return (
        not folder.is_symlink() and folder.is_dir() and not marker.is_symlink() and marker.is_file()
    )


def marker_of(name: str) -> str:
    """The name of the marker file in a folder called `name`.

    It depends on the folder's name, so that a copy under another name does not count as ours.
    """
    return f"forget.run-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _earlier(output: Path) -> dict[str, Any] | None:
    """The identity in ``run.json``: None without that file, empty if the file is not valid."""
    with atomic.output_faults(output):
        if not (output / RUN).exists():
            return None
        data = (output / RUN).read_bytes()
    try:
        earlier = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return earlier if isinstance(earlier, dict) else {}


def _refuse_unless(
    force: bool, output: Path, earlier: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
    if force:
        return
    keys = sorted(k for k in {*earlier, *current} if earlier.get(k) != current.get(k))
    raise ForgetError(
        "eval.other-run",
        f"{output} holds another run: {', '.join(keys)} differ",
        "choose another folder with -o, or start afresh with --force",
    )


def _clear(output: Path, folders: Iterable[str], files: Iterable[str]) -> None:
    """Delete the marked folders in `output`, and `files`.

    Nothing is deleted if anything else occupies a name that this run needs.
    """
    paths = [output / name for name in files]
    for path in paths:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise _not_ours(path)
    for path in (output / name for name in folders):
        if os.path.lexists(path) and not is_ours(path) and not _is_empty_folder(path):
            raise _not_ours(path)
    for folder in [path for path in output.iterdir() if is_ours(path)]:
        shutil.rmtree(folder)
    for path in paths:
        path.unlink(missing_ok=True)


def _not_ours(path: Path) -> ForgetError:
    return ForgetError(
        "eval.not-ours",
        f"{path} was not made by this command and is not deleted, --force or not",
        "choose another folder with -o, or remove it yourself",
    )


def _make(folder: Path) -> None:
    """Make and mark `folder`. A folder that already has content stays as it is."""
    if not os.path.lexists(folder):
        folder.mkdir()
    if _is_empty_folder(folder):
        (folder / marker_of(folder.name)).touch()


def _is_empty_folder(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir() and not any(path.iterdir())
