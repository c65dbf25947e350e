"""Standard output that may be closed by its reader at any moment: ``forget recipe schema | head -c
1``.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def ensure() -> None:
    """Give a process that was started without stdout or stderr (``>&-``) ones that go nowhere.

    Characters that a stream cannot hold are replaced.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in (
            "strict",
            "surrogateescape",  # in the C locale
        ):
            # A stream that is not UTF-8 (a Windows code page, the C locale) cannot hold every
            # character. A missing check mark must not change the exit code.
            stream.reconfigure(errors="replace")


def write(text: str) -> None:
    """Write to stdout and flush. A closed pipe is ignored; a full disk raises OSError."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard()


def write_paths(text: str) -> None:
    """As `write`, for paths that another program reads: names that are not text stay the same."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        if hasattr(sys.stdout, "buffer"):
            sys.stdout.flush()
            sys.stdout.buffer.write(os.fsencode(text))
            text = ""
    write(text)


def can_hold(char: str) -> bool:
    """Whether stdout's encoding has this character."""
    try:
        char.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def close() -> None:
    """Flush the streams, so that Python does not report a failure to do so when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def discard(stream: TextIO | None = None) -> None:
    """Discard everything that is written to `stream` (default: stdout) from now on."""
    stream = stream or sys.stdout
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # no file behind it, or closed already
        return
    finally:
        os.close(nowhere)
