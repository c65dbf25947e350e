"""How the untouched files of a base get into its edited copy, and whether there is room for them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from forgetcli.errors import OutputError
from forgetcli.storage.atomic import copy_file


class Copying(StrEnum):
    """A reflink where the file system can, else bytes; bytes always; a hard link to the base's own
    file.
    """

    REFLINK = "reflink"
    COPY = "copy"
    LINK = "link"


def put(source: Path, target: Path, how: Copying) -> None:
    """An untouched file of the base, in the output.

    A hard link *is* the base's file: the same bytes, and the same mode, which is left as it is.
    What writes to one writes to the
    other; forget does not, and `verify` sees it.

    Raises:
        OutputError: output.cannot-link: another file system, or one without hard links.
    """
    if how is not Copying.LINK:
        copy_file(source, target, reflink=how is Copying.REFLINK)
        return
    try:
        os.link(
            os.path.realpath(source), target
        )  # the hub's cache has links to blobs: the blob, not the link
    except OSError as fault:
        if fault.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise OutputError(
            "output.cannot-link",
            f"cannot hard-link {source} into the output: {fault.strerror}",
            "leave --link out, or choose an output on the base's own file system with -o",
        ) from fault


def refuse_lack_of_room(files: Iterable[Path], staging: Path, output: Path) -> None:
    """Before the work: whether the disk has room for these files.

    What fits is never refused: the little that forget adds, and what the file system needs for
    itself, are not counted.

    Args:
        staging: an existing folder on the output's disk. output: what the user knows it as.
    Raises:
        OutputError: output.disk-full, with what is needed and what is free.
    """
    needed = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise OutputError(
            "output.disk-full",
            f"the disk is too full for {output}: it needs {_size(needed)}, {_size(free)} are free",
            "free some space, or choose another place with -o",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
