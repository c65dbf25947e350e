"""Copies of files: reflinks, bytes or hard links, and whether the disk has room for them."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from forgetcli.errors import OutputError
from forgetcli.storage.files import open_regular

if sys.platform == "linux":
    import fcntl

FICLONE = 0x40049409  # linux/fs.h


class Copying(StrEnum):
    """How a file gets into the output.

    REFLINK: a reflink where the file system can, else bytes. COPY: always bytes. LINK: a hard link
    to the base's own file.
    """

    REFLINK = "reflink"
    COPY = "copy"
    LINK = "link"


def put(source: Path, target: Path, how: Copying) -> None:
    """Put an unchanged file of the base into the output.

    A hard link *is* the base's file, with the same bytes and the same mode. A program that writes
    to one writes to the other. forget does not, and `verify` detects it.

    Raises:
        OutputError: output.cannot-link: another file system, or one without hard links.
    """
    if how is not Copying.LINK:
        copy_file(source, target, reflink=how is Copying.REFLINK)
        return
    try:
        # The hub's cache has links to blobs: the blob is linked, not the link.
        os.link(os.path.realpath(source), target)
    except OSError as fault:
        if fault.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise OutputError(
            "output.cannot-link",
            f"cannot hard-link {source} into the output: {fault.strerror}",
            "leave --link out, or choose an output on the base's own file system with -o",
        ) from fault


def copy_file(source: Path, target: Path, *, reflink: bool = True) -> None:
    """Copy a file's content: as a reflink where the file system can (and `reflink` allows), byte
    for byte elsewhere.

    The copy's mode comes from the umask. The source may be read-only or private, as in a model
    cache.
    """
    with open_regular(source) as reader, open(target, "xb") as writer:
        if not (reflink and _clone(reader.fileno(), writer.fileno())):
            shutil.copyfileobj(reader, writer, 8 << 20)


def can_clone(source: Path, folder: Path) -> bool:
    """Whether files like `source` can be reflinked into `folder`.

    It is tried on a file without a name.
    """
    with open_regular(source) as reader, tempfile.TemporaryFile(dir=folder) as writer:
        return _clone(reader.fileno(), writer.fileno())


def _clone(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
        return True
    except OSError:  # another file system, or one without reflinks
        return False


def refuse_lack_of_room(files: Iterable[Path], staging: Path, output: Path) -> None:
    """Check before the work that the disk has room for these files.

    Files that fit are never refused: the few files that forget adds, and the file system's own
    needs, are not counted.

    Args:
        staging: an existing folder on the output's disk.
        output: the output as the user knows it, for the message.
    Raises:
        OutputError: output.disk-full, with the needed and the free size.
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
