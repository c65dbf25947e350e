"""The files of a folder that may come from anyone: links that lead out of it are not followed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from forgetcli.errors import ModelError
from forgetcli.storage.files import inside, is_regular

# Windows, and file systems without permissions, give no bits that mean anything.
HAS_MODES = os.name != "nt"


@dataclass(frozen=True)
class Listing:
    """What lies below a folder; all paths are relative posix paths, sorted.

    Attributes:
        files: everything but folders and `outside`, pipes and devices included.
        folders: folders, links to folders of the same model included.
        outside: links whose target lies outside the folder, to files and to folders. What lies
            below the latter is not listed.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    outside: tuple[str, ...]

    def is_outside(self, path: str) -> bool:
        """Whether `path` is a link that leads out, or lies below one."""
        return any(path == link or path.startswith(f"{link}/") for link in self.outside)


def listing(folder: Path) -> Listing:
    """Everything below `folder`, with links followed as long as they stay in it."""
    files: list[str] = []
    below: list[str] = []
    outside: list[str] = []
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        leading_out = {name for name in (*folders, *names) if _leads_out(folder, Path(place, name))}
        folders[:] = [name for name in folders if name not in leading_out]
        relative = Path(place).relative_to(folder)
        outside += [(relative / name).as_posix() for name in leading_out]
        below += [(relative / name).as_posix() for name in folders]
        files += [(relative / name).as_posix() for name in names if name not in leading_out]
    return Listing(tuple(sorted(files)), tuple(sorted(below)), tuple(sorted(outside)))


def regular_files(folder: Path) -> tuple[str, ...]:
    """The files of a folder that is about to be copied.

    Raises:
        ModelError: file.outside, file.not-regular.
    """
    found = listing(folder)
    for path in found.outside:
        inside(folder, folder / path)
    for path in found.files:
        if not is_regular(folder / path):
            raise ModelError(
                "file.not-regular",
                f"{folder / path} is a pipe, a device or a dangling link, not a file",
                "remove it",
            )
    return found.files


def _leads_out(folder: Path, path: Path) -> bool:
    if not path.is_symlink():
        return False
    try:
        inside(folder, path)
    except ModelError:
        return True
    return False


def unsafe_mode(path: Path) -> str | None:
    """What is wrong with the permissions of a file or folder, as the rest of a sentence; None if
    nothing is.

    Nobody but its owner and group can write to it, and a file runs with nobody else's rights.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing, or a dangling link: found elsewhere
        return None
    if not HAS_MODES:
        return None
    if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode):
        return f"runs with the rights of its owner or group (mode {stat.S_IMODE(mode):04o})"
    if mode & stat.S_IWOTH:
        return f"can be changed by every user of this machine (mode {stat.S_IMODE(mode):04o})"
    return None
