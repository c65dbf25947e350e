"""Ctrl-C and kill. The first signal unwinds, which removes temporary files; a second one ends the
process immediately.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

received: int | None = None
over = False  # nothing is left to unwind
_SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Terminated(SystemExit):
    """SIGTERM or SIGHUP was received.

    It is a SystemExit, so that no handler of ordinary errors catches it.
    """


def install() -> None:
    """Handle SIGINT, SIGTERM and SIGHUP, except those that the parent process ignores (nohup,
    background jobs). Those that the parent has blocked (`compare`, while it starts an edit) are let
    in.
    """
    global over
    over = False
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def end() -> None:
    """From now on a signal ends the process at once: an exception while Python shuts down would
    only be a traceback.
    """
    global over
    over = True


def _handle(number: int, frame: FrameType | None) -> None:
    global received
    if received is not None or over:
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os._exit(128 + number)
    received = number
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)
