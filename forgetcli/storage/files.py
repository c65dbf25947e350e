"""Untrusted files and folders: opening, digests, listings, and whether one path contains another.

All files that forget did not write itself are opened by `open_regular`.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

from forgetcli.errors import ModelError, OutputError

# Without O_NONBLOCK, opening a pipe that has no writer would block. Regular files ignore the flag.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path, *, limit: int | None = None) -> BufferedReader:
    """Open a regular file for reading.

    Links are followed. Pipes, devices and sockets are refused: reading them might never end.

    Args:
        limit: the largest allowed size in bytes; None for files that are read piece by piece.
    Raises:
        ModelError: file.not-regular, file.too-large.
        OSError: the file is missing or may not be read.
    """
    # Check before opening, because opening a device can have effects. Check the opened file again,
    # because it may have been replaced in between.
    refuse_special(path, os.stat(path).st_mode)
    handle = os.open(path, _READ)
    try:
        status = os.fstat(handle)
        refuse_special(path, status.st_mode)
        if limit is not None and status.st_size > limit:
            raise _too_large(path, limit)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        ModelError, OSError: as `open_regular`.
    """
    with open_regular(path, limit=limit) as reader:
        # Ask for one byte more, because some regular files (in /proc, or still growing) have more
        # bytes than their size says.
        data = reader.read(limit + 1)
    if len(data) > limit:
        raise _too_large(path, limit)
    return data


def is_pipe(path: str | Path) -> bool:
    """Whether `path` is a pipe: a named one, ``/dev/stdin`` or the shell's ``<(command)``."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def read_pipe(path: str | Path, limit: int) -> bytes:
    """Read a pipe until its last writer closes it.

    Only for a path that the user has typed: `open_regular` refuses pipes in folders. Waits for a
    slow writer, but not for a pipe that no program has opened for writing.

    Raises:
        ModelError: file.not-regular: no program writes to the pipe; file.too-large.
        OSError: the pipe is missing or may not be read.
    """
    handle = os.open(path, _READ)
    data = bytearray()
    try:
        while len(data) <= limit:
            try:
                part = os.read(handle, 1 << 16)
            except BlockingIOError:  # there is a writer that has not written yet
                select.select([handle], [], [])
                continue
            if not part:
                break
            data += part
    finally:
        os.close(handle)
    if len(data) > limit:
        raise _too_large(path, limit)
    if not data:
        raise ModelError(
            "file.not-regular",
            f"{path} is a pipe that no program has written to",
            "first start the command that writes to it, and check whether it fails",
        )
    return bytes(data)


def refuse_special(path: str | Path, mode: int) -> None:
    """Refuse anything but a regular file, by the mode from `os.stat`.

    Raises:
        ModelError: file.not-regular.
    """
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
        raise ModelError(
            "file.not-regular",
            f"{path} is {kind}, not a file",
            "put the file there, or remove it",
        )


def _too_large(path: str | Path, limit: int) -> ModelError:
    size = f"{limit / 1e6:.0f} MB" if limit >= 1e6 else f"{limit} bytes"
    return ModelError(
        "file.too-large",
        f"{path} is larger than {size}, the limit for such a file",
        "is it the right file?",
    )


def inside(folder: Path, path: Path) -> Path:
    """Resolve all links in `path`, and refuse a target outside `folder`.

    In a snapshot of the hub's cache, files are links to blobs of the same model. These links are
    allowed.

    Raises:
        ModelError: file.outside.
    """
    root = Path(os.path.realpath(folder))
    target = Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return target
    # If `folder` is a snapshot or lies in one, its path has models--a--b/snapshots/COMMIT/.
    for ancestor in (root, *root.parents):
        snapshots = ancestor.parent
        if snapshots.name == "snapshots" and target.parent == snapshots.parent / "blobs":
            return target
    raise ModelError(
        "file.outside",
        f"{path} leads out of {folder}, to {target}",
        f"put a copy of it into {folder}, or remove it",
    )


def refuse_missing_folder(folder: Path, hint: str) -> None:
    """Refuse a folder that does not exist.

    Raises:
        ModelError: model.not-found.
    """
    if not folder.is_dir():
        raise ModelError("model.not-found", f"there is no folder {folder}", hint)


def is_plain_name(name: str) -> bool:
    """Whether `name` is a file name on every system, not a path."""
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\:")


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in lower-case hex.

    Raises:
        ModelError, OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for many files: the SHA-256 of the lines ``path sha256\\n``, sorted by path.

    Args:
        files: path → SHA-256.
    """
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def walk_files(folder: Path) -> list[str]:
    """Everything below `folder` except folders, as sorted relative posix paths.

    Links are followed, but no folder is visited twice. The paths may include pipes and devices. A
    caller that reads the files must check them with `is_regular`.
    """
    paths: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(parent)
        if resolved in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(resolved)
        paths += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(paths)


def is_regular(path: Path) -> bool:
    """Whether `path`, or the target of a link at `path`, is a regular file.

    Pipes, devices and dangling links are not regular.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def refuse_overlap(
    output: Path,
    source: Path,
    *,
    kind: str = "",
    may_replace: bool = False,
    hint: str = "choose another folder with --output",
) -> None:
    """Refuse an output inside or around `source`, because writing it would change `source`.

    Args:
        kind: the kind of thing that `source` is, for the message.
        may_replace: whether the output may be `source` itself.
    Raises:
        OutputError: output.overlaps-base.
    """
    resolved_output = output.resolve()
    resolved_source = source.resolve()
    nested = (
        resolved_source in resolved_output.parents or resolved_output in resolved_source.parents
    )
    if nested or (resolved_output == resolved_source and not may_replace):
        named = f"{kind} {source}" if kind else str(source)
        raise OutputError("output.overlaps-base", f"the output {output} overlaps {named}", hint)
