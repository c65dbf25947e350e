"""The temporary files of `write_atomically`, and the removal of files that killed runs have left.

A writer holds a lock on its temporary file until the file has its final name. The system releases
the lock when the writer dies. An unlocked temporary file was therefore left by a killed run,
whatever process number its name has.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

ATTEMPTS = 5  # names to try; another run can take a new file for an abandoned one
STALE_SECONDS = 24 * 3600  # without locks, a file of this age counts as abandoned
LONGEST_NAME = 50  # characters of the final name that the temporary name repeats
_NAME = re.compile(rf"\..{{1,{LONGEST_NAME}}}\.\d+-[0-9a-f]{{8}}\.forget\.tmp", re.DOTALL)


def create(path: Path, mode: int | None) -> tuple[Path, int]:
    """Create a locked file beside `path`, and return its path and its handle.

    Args:
        mode: permission bits; default: 0o666 less the umask.
    Raises:
        OSError: the file cannot be created.
    """
    for _ in range(ATTEMPTS):
        name = f".{path.name[:LONGEST_NAME]}.{os.getpid()}-{secrets.token_hex(4)}.forget.tmp"
        temporary = path.parent / name
        try:
            # The mode is given at creation, so that the system applies the umask. The umask can be
            # read only by setting it, which would affect other threads.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            handle = os.open(temporary, flags, 0o666 if mode is None else mode)
            # Another run may have removed the file before it was locked.
            if _lock(handle) is not False and _is_same(temporary, handle):
                return temporary, handle
            os.close(handle)
        except BaseException:
            remove(temporary)
            raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def remove(path: Path) -> None:
    """Remove a temporary file if it exists, even if one Ctrl-C interrupts the removal."""
    try:
        if os.path.lexists(path):
            os.unlink(path)
    except (KeyboardInterrupt, SystemExit):
        path.unlink(missing_ok=True)
        raise


def collect(folder: Path) -> None:
    """Remove the temporary files in `folder` that killed runs have left.

    Links, files of other users and files in use stay. Errors of the operating system are ignored.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_abandoned(Path(entry.path))


def _remove_abandoned(path: Path) -> None:
    status = os.lstat(path)
    is_users_file = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not stat.S_ISREG(status.st_mode) or not is_users_file:
        return
    handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        locked = _lock(handle)
        stale = status.st_mtime < time.time() - STALE_SECONDS
        abandoned = _is_same(path, handle) and (locked or (locked is None and stale))
        if abandoned and sys.platform != "win32":
            os.unlink(path)
    finally:
        os.close(handle)
    if abandoned and sys.platform == "win32":  # Windows cannot remove an open file
        os.unlink(path)


def _lock(handle: int) -> bool | None:
    """Try to lock an open file. False: another process holds the lock. None: there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same(path: Path, handle: int) -> bool:
    """Whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
