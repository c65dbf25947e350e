"""Files and folders that are absent, old or complete, never half-written.

Everything is written in the same way: under a temporary name beside the final one, fsync, one
rename, fsync of the folder.
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

MARKER = "forget.provenance.json"  # a folder that holds it was made by forget and can be replaced
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h

# The folders that this process has written to.
_collected: set[str] = set()

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Put `data` at `path` in one step: readers see the old file or the whole new one.

    Args:
        mode: permission bits; by default 0o666 less the umask, as for any new file.
    Raises:
        OutputError: no permission, no space, or another fault of the disk. The old file is then
            intact.
    """
    path = Path(path)
    with output_faults(path):
        _collect_once(path.parent)
        temporary, handle = temporaries.create(path, mode)
        try:
            try:
                _write_synced(temporary, handle, data, mode)
                # The lock on the handle says that the file is in use. Windows has no such lock, and
                # cannot rename a file that is open.
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
    """Remove what killed runs have left in a folder, before this process first writes there.

    An evaluation writes thousands of files into one folder, and each would list it.
    """
    place = os.path.realpath(folder)
    if place not in _collected:
        _collected.add(place)
        collect(folder)


def sync_file(path: Path) -> None:
    """Have the disk hold the file's bytes before this returns."""
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Have the disk hold the folder's names before this returns; without it a rename can be lost
    with the power.
    """
    if os.name != "nt":  # Windows cannot open a folder
        sync_file(path)


def sync_tree(folder: Path) -> None:
    """`sync_file` and `sync_folder` on everything below and on `folder` itself."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(place, name))
        sync_folder(Path(place))


@contextmanager
def output_faults(
    where: Path, *, within: Path | None = None, remedy: str = "choose another place with -o"
) -> Iterator[None]:
    """Turn the operating system's errors from a write to `where` into an `OutputError`.

    Args:
        where: the output as the user knows it, for the message.
        within: for a block that does other things too. Missing permission then counts only for a
            file in this folder. A full disk, a disk that fails and a file that is too large for it
            always count. All other errors pass unchanged.
        remedy: the hint.
    """
    try:
        yield
    except OSError as fault:
        ours = within is None or (
            isinstance(fault.filename, str) and Path(fault.filename).is_relative_to(within)
        )
        if fault.errno in _FULL:
            raise _disk_full(where, remedy) from fault
        if fault.errno in _FORBIDDEN and ours:
            raise OutputError(
                "output.permission",
                f"no permission to write {where}",
                f"{remedy}, or change the permissions",
            ) from fault
        if fault.errno == errno.EIO:
            raise _disk_error(where, fault) from fault
        # EFBIG: a limit of the system, or of FAT (4 GB).
        if within is not None and fault.errno != errno.EFBIG:
            raise
        raise OutputError(
            "output.failed", f"cannot write {where}: {fault.strerror or fault}", remedy
        ) from fault
    except Exception as fault:
        if "(os error 28)" in str(fault):  # how safetensors words ENOSPC
            raise _disk_full(where, remedy) from fault
        raise


def _disk_full(where: Path, remedy: str) -> OutputError:
    return OutputError(
        "output.disk-full",
        f"the disk is full: {where} was not written",
        f"free some space, or {remedy}",
    )


def _disk_error(where: Path, fault: OSError) -> OutputError:
    """The error of a disk that fails: where we write, or where we read meanwhile."""
    name = fault.filename if isinstance(fault.filename, str) else ""
    # Our temporary names mean nothing to the user, who knows `where`.
    named = f" at {name}" if name and not Path(name).name.startswith(".") else ""
    return OutputError(
        "output.failed",
        f"cannot write {where}: input/output error{named}",
        "a disk may be failing or gone: check it, and run the command again",
    )


@contextmanager
def publishing(output: Path, *, force: bool) -> Iterator[Path]:
    """Build a folder aside and put it in place in one step.

    Yields an empty temporary folder on `output`'s disk. When the block ends normally its content is
    synced and renamed to `output`. On any exception, Ctrl-C included, it is removed and an old
    `output` is as it was. A link at `output` stays: its target is replaced. Whatever can be known
    beforehand (the output exists, no permission) is reported before the block runs. What killed
    runs have left beside `output` is removed.

    Args:
        output: the folder to make; missing parents are made.
        force: replace an existing `output`, if it is empty or holds forget's manifest (`MARKER`).
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
    """`publishing` for one file that is written piece by piece and need not fit into memory.

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
    """Refuse what `publishing` or `publishing_file` would refuse because of what is at `output`,
    without writing anything.

    Raises:
        OutputError: output.exists, output.not-ours, output.permission.
    """
    check = _check_replaceable if folder else _check_file
    with output_faults(output):
        check(Path(os.path.realpath(output)), output, force)


@contextmanager
def _replacing(output: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """The core of `publishing` and `publishing_file`.

    Yields the path at which the block builds a folder or a file and syncs it.

    Args:
        check: raises if the path that `output` stands for must not be replaced.
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
            check(target)  # again: it may have appeared while we worked
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
            f"{output} is a folder or a device, not a file that can be replaced",
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
        except OSError:  # another process uses it by now
            break


def refuse_existing(output: Path, *, force: bool) -> None:
    """What `publishing` would refuse because of what is at `output`, before a long work begins.

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
            f"{output} was not made by forget and is not replaced, --force or not",
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
    """Swap two names in one step, or return False where the system or the file system cannot."""
    swap = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if os.name == "posix"
        else None
    )
    if swap is None:
        return False
    if swap(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(fault, os.strerror(fault), str(second))
