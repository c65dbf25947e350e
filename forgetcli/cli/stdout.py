"""Standard output that may be closed by its reader at any moment: ``forget recipe schema | head -c
1``.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


def ensure() -> None:
    """Give a process that was started without stdout or stderr (``>&-``) ones that go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def write(text: str) -> None:
    """Write to stdout now. A reader that has gone is no fault; a full disk is, and is raised as
    OSError.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard()


def close() -> None:
    """Flush what is left, so that Python does not fail at it, loudly, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def discard(stream: TextIO | None = None) -> None:
    """Send what is still written to `stream` (stdout) nowhere."""
    stream = stream or sys.stdout
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # no file behind it, or closed already
        return
    finally:
        os.close(nowhere)
