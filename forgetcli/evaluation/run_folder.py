"""The output folder of a run: recognised, cleared with --force, and marked.

A run writes ``run.json``, which says what the images were made with, and folders: one for each
model, one for the verdicts. Each folder contains an empty marker file, which proves that this tool
made it. Folders without the marker are never deleted, and no file's content is used to decide
what is deleted. A link, a device or a mount point in the place of something that a run makes is
refused, also without --force: writing through it would change something elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import atomic
from forgetcli.storage.json import read_json

SCHEMA_VERSION = 1
RUN = "run.json"
VERDICTS = "verdicts"
MAX_RUN_BYTES = 1 << 20  # of run.json; ours have a few hundred


def claim(
    output: Path,
    identity: Mapping[str, Any],
    force: bool,
    also: Sequence[str] = (),
    keep_images: bool = False,
) -> None:
    """Prepare `output` for this run: a new folder, or one of an earlier run with equal `identity`.

    The folders of the run are made and marked. With `force`, the folders of another run are
    deleted, if their markers prove that this tool made them.

    Args:
        output: the folder.
        identity: everything that the images depend on. The keys of `models` are the names of the
            models, and so of their folders. Without any, the run has no images of its own.
        also: names of what else such a run writes directly in `output`. A name with a suffix is a
            file, any other a folder.
        keep_images: delete nothing, whatever the earlier run was. Each image records what it was
            made with, so images of the earlier run that this run does not need do no harm.

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
    with atomic.output_faults(output):
        refuse_others(output, folders=folders, files=(RUN, *files))
        earlier = _earlier(output)
        if earlier is not None and earlier != current and not keep_images:
            _refuse_unless(force, output, earlier, current)
            _clear(output, folders, files)
        output.mkdir(parents=True, exist_ok=True)
        if earlier != current:
            atomic.write_atomically(output / RUN, json.dumps(current, indent=1).encode())
        for name in folders:
            _make(output / name)


def refuse_others(output: Path, *, folders: Iterable[str] = (), files: Iterable[str] = ()) -> None:
    """Refuse links, devices, and files and folders in each other's place, under the names in
    `output` that a run is about to use.

    Raises:
        ForgetError: eval.not-ours, or eval.bad-name: a name that leads out of `output`.
    """
    for names, is_kind in ((folders, stat.S_ISDIR), (files, stat.S_ISREG)):
        for name in names:
            if not name or Path(name).name != name or name == "..":
                raise ForgetError(
                    "eval.bad-name",
                    f"'{name}' cannot be the name of a folder in {output}",
                    "move the edited model into a folder with a name of its own",
                )
            path = output / name
            if os.path.lexists(path) and not is_kind(os.lstat(path).st_mode):
                raise not_ours(path)


def refuse_unmarked(folder: Path) -> None:
    """Refuse a folder that could not be deleted, because it has no marker and is not empty.

    Raises:
        ForgetError: eval.not-ours.
    """
    if os.path.lexists(folder) and not is_ours(folder) and not _is_empty_folder(folder):
        raise not_ours(folder)


def fresh(folder: Path) -> None:
    """Make `folder`, empty and marked. One that an interrupted run has left is deleted first.

    Raises:
        ForgetError: something that this tool did not make is in the way (``eval.not-ours``).
        OutputError: `folder` cannot be written.
    """
    with atomic.output_faults(folder):
        discard(folder)
        _make(folder)


def discard(folder: Path) -> None:
    """Delete `folder`, if there is one.

    Raises:
        ForgetError: this tool did not make it, or a disk is mounted in it (``eval.not-ours``).
        OSError: it cannot be deleted.
    """
    if not os.path.lexists(folder):
        return
    refuse_unmarked(folder)
    mounted = _mount_point(folder)
    if mounted is not None:
        raise not_ours(mounted)
    shutil.rmtree(folder)


def is_ours(folder: Path) -> bool:
    """Whether the marker in `folder` proves that `claim` made it: a directory, and no link."""
    marker = folder / marker_of(folder.name)
    return (
        not folder.is_symlink() and folder.is_dir() and not marker.is_symlink() and marker.is_file()
    )


def not_ours(path: Path) -> ForgetError:
    """The error about something in the way of a run."""
    return ForgetError(
        "eval.not-ours",
        f"{path} was not made by this command and is not deleted, --force or not",
        "choose another folder with -o, or remove it yourself, for instance if an older version "
        "made it",
    )


def marker_of(name: str) -> str:
    """The name of the marker file in a folder called `name`.

    It depends on the folder's name, so that a copy under another name does not count as ours.
    """
    return f"forget.run-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _earlier(output: Path) -> dict[str, Any] | None:
    """The identity in ``run.json``: None without that file, empty if the file is not valid."""
    try:
        earlier = read_json(output / RUN, MAX_RUN_BYTES)
    except FileNotFoundError:
        return None
    except (ModelError, ValueError):  # too large, or not JSON
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
    """Delete the marked folders in `output`, and `files` if there is a marked folder beside them.

    Nothing is deleted if anything else occupies a name that this run needs.
    """
    ours = [path for path in output.iterdir() if is_ours(path)]
    paths = [path for path in (output / name for name in files) if os.path.lexists(path)]
    if paths and not ours:
        raise not_ours(paths[0])
    for name in folders:
        refuse_unmarked(output / name)
    for folder in ours:
        foreign = _unmarked(folder) or _mount_point(folder)
        if foreign is not None:
            raise not_ours(foreign)
    for folder in ours:
        discard(folder)
    for path in paths:
        path.unlink(missing_ok=True)


def _unmarked(folder: Path) -> Path | None:
    """The first folder in `folder` that this tool did not make.

    A run's folders contain files and marked folders only. What a marked folder in them contains is
    made by the command that marked it.
    """
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and not is_ours(path) and not _is_empty_folder(path):
            return path
    return None


def _mount_point(folder: Path) -> Path | None:
    """The first mount point among `folder` and all folders in it."""
    device = os.lstat(folder).st_dev
    inside = (Path(place, name) for place, names, _ in os.walk(folder) for name in names)
    for path in (folder, *inside):
        if os.path.ismount(path) or (not path.is_symlink() and os.lstat(path).st_dev != device):
            return path
    return None


def _make(folder: Path) -> None:
    """Make and mark `folder`. A folder that already has content stays as it is."""
    if not os.path.lexists(folder):
        folder.mkdir()
    if _is_empty_folder(folder):
        (folder / marker_of(folder.name)).touch()


def _is_empty_folder(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir() and not any(path.iterdir())
