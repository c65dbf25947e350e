"""Outputs that are absent, old or complete, but never half-written.

Every output is written in the same way: write under a temporary name beside the final one, fsync,
rename once, fsync the folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from forgetcli.errors import OutputError
from forgetcli.storage import temporaries
from forgetcli.storage.workspace import Workspace, collect

MARKER = "forget.provenance.json"  # marks a folder that forget made and therefore may replace
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h

# The folders that this process has searched for files of killed runs.
_collected: set[str] = set()

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Put `data` at `path` in one step: readers see the old file or the whole new one.

    Args:
        mode: permission bits; default: 0o666 less the umask, as for any new file.
    Raises:
        OutputError: no permission, no space, or another fault of the disk. The old file stays
            intact.
    """
    path = Path(path)
    with output_faults(path):
        _collect_once(path.parent)
        temporary, handle = temporaries.create(path, mode)
        try:
            try:
                _write_synced(temporary, handle, data, mode)
                # The handle stays open until after the rename, because its lock marks the file as
                # in use. Windows has no such lock and cannot rename an open file.
                if os.name != "nt":
                    os.replace(temporary, path)
            finally:
                os.close(handle)
            if os.name == "nt":
                os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporaries.remove(temporary)


def _write_synced(path: Path, handle: int, data: bytes, mode: int | None) -> None:
    if mode is not None:  # a requested mode is not subject to the umask
        os.chmod(path, mode)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)


def _collect_once(folder: Path) -> None:
    """Remove temporary files of killed runs from a folder, once per process.

    An evaluation writes thousands of files into one folder. Listing it for each file is too slow.
    """
    resolved = os.path.realpath(folder)
    if resolved not in _collected:
        _collected.add(resolved)
        collect(folder)


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk. Without this, a power failure can undo a rename."""
    if os.name != "nt":  # Windows cannot open a folder
        sync_file(path)


def sync_tree(folder: Path) -> None:
    """Apply `sync_file` and `sync_folder` to everything below `folder` and to `folder` itself."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


@contextmanager
def output_faults(
    where: Path, *, within: Path | None = None, remedy: str = "choose another place with -o"
) -> Iterator[None]:
    """Turn the operating system's errors from a write to `where` into an `OutputError`.

    Args:
        where: the output as the user knows it, for the message.
        within: the folder that the block writes to, if the block also does other things. Then
            permission errors are converted only for files in this folder. Errors of a full disk, a
            failing disk and a file too large for the disk are always converted. All other errors
            pass unchanged.
        remedy: the hint.
    """
    try:
        yield
    except OSError as fault:
        is_output = within is None or (
            isinstance(fault.filename, str) and Path(fault.filename).is_relative_to(within)
        )
        if fault.errno in _FULL:
            raise _disk_full(where, remedy) from fault
        if fault.errno in _FORBIDDEN and is_output:
            raise OutputError(
                "output.permission",
                f"no permission to write {where}",
                f"{remedy}, or change the permissions",
            ) from fault
        if fault.errno == errno.EIO:
            raise _disk_error(where, fault) from fault
        # EFBIG: the file exceeds a limit of the system or of the file system (4 GB on FAT).
        if within is not None and fault.errno != errno.EFBIG:
            raise
        raise OutputError(
            "output.failed", f"cannot write {where}: {fault.strerror or fault}", remedy
        ) from fault
    except Exception as fault:
        if "(os error 28)" in str(fault):  # the safetensors package's text for ENOSPC
            raise _disk_full(where, remedy) from fault
        raise


def _disk_full(where: Path, remedy: str) -> OutputError:
    return OutputError(
        "output.disk-full",
        f"the disk is full: {where} was not written",
        f"free some space, or {remedy}",
    )


def _disk_error(where: Path, fault: OSError) -> OutputError:
    """The error of a failing disk, either the output's or one that is read during the write."""
    name = fault.filename if isinstance(fault.filename, str) else ""
    # Temporary names, which begin with a dot, mean nothing to the user.
    named = f" at {name}" if name and not Path(name).name.startswith(".") else ""
    return OutputError(
        "output.failed",
        f"cannot write {where}: input/output error{named}",
        "a disk may be failing or disconnected: check it, and run the command again",
    )


@contextmanager
def publishing(output: Path, *, force: bool) -> Iterator[Path]:
    """Build a folder under a temporary name and publish it in one step.

    Yields an empty temporary folder on `output`'s disk. When the block ends normally, the folder is
    synced and renamed to `output`. On any exception, Ctrl-C included, the folder is removed and an
    old `output` stays unchanged. If `output` is a link, the link stays and its target is replaced.
    Faults that are known in advance (the output exists, no permission) are reported before the
    block runs. Temporary folders that killed runs have left beside `output` are removed.

    Args:
        output: the folder to publish; missing parents are created.
        force: replace an existing `output` if it is empty or has forget's manifest (`MARKER`).
    Raises:
        OutputError: output.exists, output.not-ours, output.permission, output.disk-full,
            output.failed.
    """
    output = Path(output)
    with _replacing(output, lambda target: _check_replaceable(target, output, force)) as staging:
        with output_faults(output):
            os.mkdir(staging)
        yield staging
        with output_faults(output):
            sync_tree(staging)


@contextmanager
def publishing_file(output: Path, *, force: bool) -> Iterator[BinaryIO]:
    """`publishing` for one file, which is written piece by piece and need not fit into memory.

    Yields a writer to a temporary file on `output`'s disk.

    Args:
        force: replace an existing file; never a folder or a device.
    Raises:
        OutputError: as `publishing`.
    """
    output = Path(output)
    with (
        _replacing(output, lambda target: _check_file(target, output, force)) as staging,
        ExitStack() as stack,
    ):
        with output_faults(output):
            writer = stack.enter_context(open(staging, "xb"))
        yield writer
        writer.flush()
        os.fsync(writer.fileno())


def refuse_unwritable(output: Path, *, folder: bool, force: bool) -> None:
    """Raise the errors that `publishing` or `publishing_file` would raise for an existing `output`,
    without writing anything.

    Raises:
        OutputError: output.exists, output.not-ours, output.permission.
    """
    check = _check_replaceable if folder else _check_file
    with output_faults(output):
        check(Path(os.path.realpath(output)), output, force)


@contextmanager
def _replacing(output: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """The shared core of `publishing` and `publishing_file`.

    Yields the path at which the block must build and sync a folder or a file.

    Args:
        check: raises if its argument, the resolved path of `output`, must not be replaced.
    """
    target = Path(os.path.realpath(output))
    workspace = Workspace(target)
    parents: list[Path] = []
    published = False
    try:
        with output_faults(output):
            collect(target.parent, target.name)
            check(target)
            _make_parents(target.parent, parents)
            workspace.create()
        with output_faults(output, within=workspace.folder):
            yield workspace.new
        with output_faults(output):
            check(target)  # again, because the target may have appeared during the block
            _put_in_place(workspace, target)
            published = True
            sync_folder(target.parent)
    finally:
        try:
            workspace.remove()
        finally:
            if not published:
                _remove_parents(parents)


def _check_file(target: Path, output: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise OutputError(
            "output.not-ours",
            f"{output} is a folder or a device, which forget does not replace with a file",
            "choose another place with -o",
        )
    if not force:
        raise OutputError(
            "output.exists",
            f"{output} exists already",
            "use --force, or choose another place with -o",
        )


def _make_parents(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        made.append(folder)
        folder.mkdir(exist_ok=True)


def _remove_parents(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            os.rmdir(folder)
        except OSError:  # another process uses the folder now
            break


def refuse_existing(output: Path, *, force: bool) -> None:
    """Raise the errors that `publishing` would raise for an existing `output`, before long work.

    Raises:
        OutputError: output.exists, output.not-ours.
    """
    _check_replaceable(Path(os.path.realpath(output)), output, force)


def _check_replaceable(target: Path, output: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputError(
            "output.exists",
            f"{output} exists already",
            "use --force, or choose another place with -o",
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / MARKER).is_file()):
        raise OutputError(
            "output.not-ours",
            f"{output} was not made by forget, so it is not replaced, even with --force",
            "choose another place with -o, or remove it yourself",
        )
    if not os.access(target, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))


def _put_in_place(workspace: Workspace, target: Path) -> None:
    new = workspace.new
    if new.is_file():
        os.replace(new, target)
    elif not os.path.lexists(target):
        os.rename(new, target)
    elif not _exchange(new, target):
        try:
            workspace.set_aside()
            os.rename(new, target)
        finally:
            workspace.restore()


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step. Returns False if the system or the file system cannot do that."""
    if os.name != "posix":
        return False
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    if swap(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(fault, os.strerror(fault), str(second))
