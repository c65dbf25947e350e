"""Files on disk that are absent, old or complete, never half. Knows nothing of models; imports no
torch.

Everything that is written goes the same way: a temporary name beside the final one, fsync, one
rename, fsync of the
    folder.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from forgetcli.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: no reflinks, no folder locks
    fcntl = None

MARKER = "forget.provenance.json"  # a folder that holds it is forget's to replace
FICLONE = 0x40049409  # linux/fs.h
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_at_work: set[Path] = set()  # temporary folders of this process


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk_files(folder: Path) -> list[str]:
    """Everything below `folder` but folders, as sorted relative posix paths. Links are followed,
    each folder once.

    Not only regular files: a caller that reads them checks (`is_regular`).
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name).relative_to(folder).as_posix() for name in files]
    return sorted(found)


def is_regular(path: Path) -> bool:
    """Whether reading `path` (or what it links to) gives bytes and ends: no pipe, no device, no
    dangling link.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def copy_file(source: Path, target: Path, *, reflink: bool = True) -> None:
    """A copy of a file's content: a reflink where the file system can (and `reflink` allows), byte
    for byte elsewhere.

    The copy's mode comes from the umask, not from the source, which in a model cache may be
    read-only or private.
    """
    with open(source, "rb") as reader, open(target, "xb") as writer:
        if not (reflink and _clone(reader.fileno(), writer.fileno())):
            shutil.copyfileobj(reader, writer, 8 << 20)


def can_clone(source: Path, folder: Path) -> bool:
    """Whether files like `source` can be reflinks in `folder`: tried, on a file without a name."""
    with open(source, "rb") as reader, tempfile.TemporaryFile(dir=folder) as writer:
        return _clone(reader.fileno(), writer.fileno())


def _clone(source: int, target: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
        return True
    except OSError:  # another file system, or one without reflinks
        return False


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Put `data` at `path` in one step: readers see the old file or the whole new one.

    Args:
        mode: permission bits; by default 0o666 less the umask, as for any new file.
    Raises:
        OutputError: no permission, no space, or another fault of the disk. The old file is then
            intact.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    with output_faults(path):
        try:
            # The mode is given at creation: asking for the umask would mean setting it, which other
            # threads would see.
            handle = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode
            )
            try:
                if mode is not None:
                    os.chmod(
                        temporary, mode
                    )  # a mode that is asked for is not subject to the umask
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            _remove(temporary)


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
    """Turn what the operating system says about a write to `where` into an `OutputError`.

    Args:
        where: what the user knows as the output; named in the message.
        within: for a block that does other things too: a refusal then counts only when it names a
            file in this folder,
            a full disk and a file that is too large for it always; everything else passes
            unchanged.
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
        if (
            within is not None and fault.errno != errno.EFBIG
        ):  # a limit of the system, or of FAT: 4 GB
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


@contextmanager
def publishing(output: Path, *, force: bool) -> Iterator[Path]:
    """Build a folder aside and put it in place in one step.

    Yields an empty temporary folder beside `output`. When the block ends well its content is synced
    and renamed to
    `output`; on any exception, Ctrl-C included, it is removed and an old `output` is as it was. A
    link at `output`
    stays: what it points to is replaced. Whatever can be known beforehand (it exists, no
    permission) is said before the
    block runs. What killed runs have left beside `output` is cleared away.

    Args:
        output: where the folder shall be; missing parents are made.
        force: replace an existing `output`, if it is empty or holds forget's manifest (`MARKER`).
    Raises:
        OutputError: output.exists, output.not-ours, output.permission, output.disk-full,
            output.failed.
    """
    output = Path(output)
    target = Path(os.path.realpath(output))
    staging = _temporary_name(target)
    made: list[Path] = []
    lock = None
    published = False
    try:
        with output_faults(output):
            _restore_or_clear(target)
            _check_replaceable(target, output, force)
            _make_parents(target.parent, made)
            _at_work.add(staging)
            os.mkdir(staging)
            lock = _lock(staging)
        with output_faults(output, within=staging):
            yield staging
        with output_faults(output):
            sync_tree(staging)
            _check_replaceable(target, output, force)  # again: it may have appeared while we worked
            _put_in_place(staging, target)
            published = True
            sync_folder(target.parent)
    finally:
        try:
            _remove(staging)  # what was built, or after an exchange what was there before
        finally:
            _at_work.discard(staging)
            if lock is not None:
                os.close(lock)
            for folder in [] if published else reversed(made):
                try:
                    os.rmdir(folder)
                except OSError:  # someone else uses it by now
                    break


@contextmanager
def publishing_file(output: Path, *, force: bool) -> Iterator[BinaryIO]:
    """`publishing` for one file, written piece by piece: what does not fit memory, or should not.

    Yields a writer to a temporary file beside `output`.

    Args:
        force: replace an existing file; never a folder or a device.
    Raises:
        OutputError: as `publishing`.
    """
    output = Path(output)
    target = Path(os.path.realpath(output))
    staging = _temporary_name(target)
    made: list[Path] = []
    lock = None
    published = False
    try:
        with output_faults(output):
            _restore_or_clear(target)
            _check_file_replaceable(target, output, force)
            _make_parents(target.parent, made)
            _at_work.add(staging)
            writer = open(staging, "xb")
        with writer:
            lock = _lock(staging)
            with output_faults(output, within=staging.parent):
                yield writer
                writer.flush()
                os.fsync(writer.fileno())
        with output_faults(output):
            _check_file_replaceable(
                target, output, force
            )  # again: it may have appeared while we worked
            os.replace(staging, target)
            published = True
            sync_folder(target.parent)
    finally:
        try:
            _remove(staging)
        finally:
            _at_work.discard(staging)
            if lock is not None:
                os.close(lock)
            for folder in [] if published else reversed(made):
                try:
                    os.rmdir(folder)
                except OSError:  # someone else uses it by now
                    break


def _check_file_replaceable(target: Path, output: Path, force: bool) -> None:
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


def _remove(path: Path) -> None:
    """Remove a temporary file or folder, if it is there; also when a first Ctrl-C comes in the
    midst of it.
    """
    try:
        _remove_now(path)
    except (KeyboardInterrupt, SystemExit):
        _remove_now(path)
        raise


def _remove_now(path: Path) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def _temporary_name(path: Path) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _make_parents(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        made.append(folder)
        folder.mkdir(exist_ok=True)


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


def _put_in_place(staging: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(staging, target)
    elif not _exchange(staging, target):
        aside = staging.with_suffix(".old")
        try:
            os.rename(target, aside)
            os.rename(staging, target)
        finally:
            if os.path.lexists(target):
                _remove(aside)
            elif os.path.lexists(aside):
                os.rename(aside, target)


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


def _lock(folder: Path) -> int | None:
    """Hold `folder`, or a file, for as long as this process lives, as a sign to others; None where
    that cannot be done.
    """
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # some network file systems: the pid in the name remains
        os.close(handle)
        return None
    return handle


def _restore_or_clear(target: Path) -> None:
    """Clear away what killed runs left beside `target`; put an old output back that one of them had
    moved aside.
    """
    name = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-[0-9a-f]{{8}}\.(tmp|old)")
    for path in sorted(target.parent.iterdir()) if target.parent.is_dir() else ():
        match = name.fullmatch(path.name)
        if match and not _in_use(path, int(match[1])):
            if match[2] == "old" and not os.path.lexists(target):
                os.rename(path, target)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _in_use(path: Path, pid: int) -> bool:
    """Whether the run that made a temporary folder may still be at work.

    The pid alone does not tell: in containers it is the same one every time, or counts in another
    name space. So the
    lock is asked as well, which the system takes back when its holder dies.
    """
    if path.with_suffix(".tmp") in _at_work:
        return True
    if pid != os.getpid() and _alive(pid):
        return True
    if fcntl is None or not path.exists():
        return False
    lock = _lock(path)
    if lock is None:
        return True
    os.close(lock)
    return False


def _alive(pid: int) -> bool:
    if os.name == "nt":  # os.kill(pid, 0) would send it Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
