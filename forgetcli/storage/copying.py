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
    """How an unchanged file of the base model is put into the output.

    REFLINK: as a reflink if the file system supports it, otherwise by copying bytes. COPY: always
    by copying bytes. LINK: as a hard link to the base model's file.
    """

    REFLINK = "reflink"
    COPY = "copy"
    LINK = "link"


def put(source: Path, target: Path, how: Copying) -> None:
    """Put an unchanged file of the base model into the output.

    A hard link shares its bytes and its mode with the base model's file: a program that writes to
    one changes both. forget never writes to either, and `verify` detects such a change.

    Raises:
        OutputError: output.cannot-link: the output is on another file system, or the file system
            has no hard links.
    """
    if how is not Copying.LINK:
        copy_file(source, target, reflink=how is Copying.REFLINK)
        return
    try:
        # Files in the hub's cache are links to blobs. The new link is to the blob.
        os.link(os.path.realpath(source), target)
    except OSError as fault:
        if fault.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise OutputError(
            "output.cannot-link",
            f"cannot hard-link {source} into the output: {fault.strerror}",
            "leave --link out, or choose an output on the base model's file system with -o",
        ) from fault


def copy_file(source: Path, target: Path, *, reflink: bool = True) -> None:
    """Copy a file's content, as a reflink if the file system and `reflink` allow it.

    The copy's mode comes from the umask, because the source may be read-only or private, as in a
    model cache.
    """
    with open_regular(source) as reader, open(target, "xb") as writer:
        if not (reflink and _clone(reader.fileno(), writer.fileno())):
            shutil.copyfileobj(reader, writer, 8 << 20)


def can_clone(source: Path, folder: Path) -> bool:
    """Whether files like `source` can be reflinked into `folder`, tried with an unnamed file."""
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
    """Refuse to begin if the disk has no room for these files.

    The few files that forget adds and the file system's own needs are not counted, so that files
    which fit are never refused.

    Args:
        staging: an existing folder on the output's disk.
        output: the output as the user knows it, for the message.
    Raises:
        OutputError: output.disk-full. The message gives the needed and the free size.
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
