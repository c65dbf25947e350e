"""Workspaces: hidden folders beside an output, in which a run builds the output.

    .edited.1234-0123abcd.tmp/
        lock        held by the run while it uses the folder
        new         the output that is being built
        old         the earlier output, if the system cannot exchange two names in one step
        moved.json  identifies the folder `old`; written before that folder is moved

The system releases a lock when its holder dies. A folder whose lock is free was therefore left by a
killed run, whatever process number its name has.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError
from forgetcli.storage import temporaries
from forgetcli.storage.json import read_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "lock"
CONTENT = {LOCK, "new", "old", "moved.json"}
_NAME = re.compile(r"\.(?P<output>.+)\.\d+-[0-9a-f]{8}\.tmp", re.DOTALL)
LARGEST_RECORD = 10_000  # bytes
ATTEMPTS = 5  # names to try; another run can take a new folder for an abandoned one
# The errors of file systems without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def temporary_name(path: Path) -> Path:
    """A new hidden name beside `path`."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


class Workspace:
    """One workspace for the output `target`; see the module's docstring."""

    def __init__(self, target: Path, folder: Path | None = None) -> None:
        self.target = target
        self.folder = folder or temporary_name(target)
        self._lock: BaseFileLock | None = None

    @property
    def new(self) -> Path:
        return self.folder / "new"

    @property
    def old(self) -> Path:
        return self.folder / "old"

    @property
    def record(self) -> Path:
        return self.folder / "moved.json"

    def create(self) -> None:
        """Create the folder and take its lock.

        On a file system without locks the folder has none. `collect` cannot take a lock there
        either, so it removes no folder.

        Raises:
            OSError: the folder or its lock cannot be written.
        """
        for _ in range(ATTEMPTS):
            os.mkdir(self.folder, 0o700)
            try:
                self._lock = _acquired(self.folder / LOCK)
            except NotImplementedError:
                return
            except FileNotFoundError:  # another run's `collect` has removed the folder
                pass
            if self._lock is not None and (self.folder / LOCK).exists():
                return
            # Another run saw the folder before it was locked, and removes it.
            self.release()
            self.folder = temporary_name(self.target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.folder))

    def acquire(self) -> bool:
        """Take the lock of another run's folder, if that run is dead. Returns whether it is."""
        try:
            self._lock = _acquired(self.folder / LOCK)
        except (OSError, NotImplementedError):
            return False
        return self._lock is not None

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def set_aside(self) -> None:
        """Record the identity of the earlier output, then move it into the workspace."""
        with open(self.record, "w", encoding="utf-8") as writer:
            json.dump(self._identity(self.target), writer)
            writer.flush()
            os.fsync(writer.fileno())
        os.rename(self.target, self.old)

    def restore(self) -> None:
        """Move an earlier output back, unless another output exists now.

        Only a folder that `set_aside` has recorded is moved back: it must be a plain folder, not a
        link, with the recorded inode. Somebody who plants a folder cannot choose its inode.
        """
        if not os.path.lexists(self.target) and self._is_recorded():
            os.rename(self.old, self.target)

    def remove(self) -> None:
        """Remove the workspace and release its lock, even if one Ctrl-C interrupts the removal.

        An earlier output in the workspace is moved back. If that fails, the workspace stays.
        """
        try:
            self._remove()
        except (KeyboardInterrupt, SystemExit):
            self._remove()
            raise
        finally:
            self.release()

    def _remove(self) -> None:
        self.restore()
        if os.path.lexists(self.old) and not os.path.lexists(self.target):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
        if os.path.lexists(self.folder):  # Windows cannot remove an open file, as the lock was
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is_recorded(self) -> bool:
        try:
            plain = stat.S_ISREG(os.lstat(self.record).st_mode)
            record = read_json(self.record, LARGEST_RECORD) if plain else None
            return plain and record == self._identity(self.old)
        except (OSError, ValueError, ForgetError):
            return False

    def _identity(self, folder: Path) -> dict[str, str | int]:
        """The properties of a plain folder that a rename does not change."""
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        return {"output": self.target.name, "inode": status.st_ino}


def collect(folder: Path, output: str | None = None) -> None:
    """Remove the workspaces and temporary files that killed runs have left in `folder`.

    An earlier output in such a workspace is moved back. Links and folders of other users stay. So
    do workspaces of outputs other than `output` that have no lock or contain unknown files.

    Args:
        output: the name of the output that will be written. A run that was killed early leaves a
            workspace without a lock, which only the next run for the same output removes.
    """
    if not folder.is_dir():
        return
    temporaries.collect(folder)
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name is None or not _is_users_folder(path):
            continue
        if name["output"] == output or _has_lock_and_known_files(path):
            workspace = Workspace(folder / name["output"], path)
            if workspace.acquire():
                workspace.remove()


def _has_lock_and_known_files(path: Path) -> bool:
    try:
        names = set(os.listdir(path))
        lock = stat.S_ISREG(os.lstat(path / LOCK).st_mode)
    except OSError:
        return False
    return lock and names <= CONTENT


def _is_users_folder(path: Path) -> bool:
    """Whether `path` is a plain folder of this user, and its lock is not a link (a planted one)."""
    try:
        status = os.lstat(path)
    except OSError:  # another run has removed it in the meantime
        return False
    if not stat.S_ISDIR(status.st_mode) or os.path.islink(path / LOCK):
        return False
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _acquired(path: Path) -> BaseFileLock | None:
    """Take the lock `path` and return it. Returns None if another run holds the lock.

    Raises:
        NotImplementedError: the file system has no locks.
        OSError: the lock cannot be opened.
    """
    # Imported here, because filelock imports asyncio and some commands write nothing.
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as fault:
        if fault.errno in _NO_LOCKS:
            raise NotImplementedError(f"no locks at {path}") from fault
        raise
    return lock
