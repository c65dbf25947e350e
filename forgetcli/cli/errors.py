"""Exceptions as an error line, a hint and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from forgetcli.cli import stdout
from forgetcli.cli.visible import one_line
from forgetcli.cli.wrapping import fitted
from forgetcli.errors import ForgetError, RecipeError

COULD_NOT = 2
_DEBUG_HINT = "set FORGET_DEBUG=1 for the traceback, and report it with the output of: forget env"

_RESUMED = "run the same command again: it goes on with the images that are finished"
# What an interrupted command has kept, and how to go on.
_GO_ON = {
    "apply": "no model was written; run the same command again: second moments that were finished "
    "are in the cache",
    "erase": "run the same command again, with --force if the edited model was written already: "
    "second moments and images that were finished are used again",
    "generate": _RESUMED,
    "eval": _RESUMED,
    "demo": "run the same command again: it goes on with the edit and the images that are finished",
    "compare": "run the same command again: it goes on with the edits and images that are finished",
    "tune": "run the same command again: it goes on with the trials that are finished",
    "attack": "run the same command again: it goes on with the attacks that are finished",
}


@dataclass(frozen=True)
class ErrorLine:
    """The two lines of one fault: ``error[code]: message`` and ``hint: hint``."""

    code: str
    message: str
    hint: str = ""


def debugging() -> bool:
    """Whether FORGET_DEBUG asks for tracebacks."""
    return os.environ.get("FORGET_DEBUG", "") not in ("", "0")


def report(error: BaseException) -> int:
    """Print on stderr what stopped the command; the exit code."""
    if isinstance(error, BrokenPipeError):
        stdout.discard()
        return 0
    if debugging():
        traceback.print_exception(error)
    for line in lines_of(error):
        print_line(line)
    return COULD_NOT


def report_signal(number: int) -> int:
    """Print that a signal ended the command; the exit code, by the convention of shells."""
    how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    message = f"stopped by {how}; nothing is left half-written"
    print_line(ErrorLine("interrupted", message, _GO_ON.get(_command(), "")))
    return 128 + number


def _command() -> str:
    """The command in the process's arguments: the first word that is no option."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


def lines_of(error: BaseException) -> list[ErrorLine]:
    """The faults behind an exception, in order; at least one."""
    match error:
        case RecipeError():
            return [ErrorLine(fault.code, fault.message, fault.hint) for fault in error.problems]
        case ForgetError():
            return [ErrorLine(error.code, error.message, error.hint)]
        case MemoryError():
            return [_memory("there is not enough memory")]
        case OSError():
            return [_system(error)]
    if _is_usage(error):
        return [_usage(error)]
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return [_memory(str(error).split(". ")[0])]
    if isinstance(error, typer.Abort | KeyboardInterrupt | EOFError):
        return [
            ErrorLine("interrupted", "stopped before it was done; nothing is left half-written")
        ]
    return [ErrorLine("internal", f"{type(error).__name__}: {error}", _DEBUG_HINT)]


def print_line(line: ErrorLine) -> None:
    """One error line and its hint on stderr; colour on a terminal only. A closed stderr is no
    further error.
    """
    try:
        head = f"error[{line.code}]:"
        text = fitted(f"{head} {one_line(line.message)}", sys.stderr).removeprefix(head)
        typer.echo(typer.style(head, fg="red", bold=True) + text, err=True)
        if line.hint:
            text = fitted(f"hint: {one_line(line.hint)}", sys.stderr).removeprefix("hint:")
            typer.echo(typer.style("hint:", bold=True) + text, err=True)
    except OSError:
        stdout.discard(sys.stderr)


def _is_usage(error: BaseException) -> bool:
    # Some supported versions of typer have no public name for usage errors.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage(error: Any) -> ErrorLine:
    message = one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "forget"
    return ErrorLine("usage", message[:1].lower() + message[1:], f"see {command} --help")


def _memory(message: str) -> ErrorLine:
    return ErrorLine(
        "memory",
        message,
        "use smaller batches (--batch, or --set refine.batch=4), or another --device",
    )


def _system(error: OSError) -> ErrorLine:
    where = f"{error.filename}: " if error.filename else ""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ErrorLine(
            "output.disk-full",
            f"{where}{reason}",
            "free some space, or choose another place with -o",
        )
    if isinstance(error, PermissionError):
        return ErrorLine(
            "permission", f"{where}{reason}", "check who owns it, or choose another place with -o"
        )
    return ErrorLine(
        "io",
        f"{where}{reason}",
        "check the disk and the path; FORGET_DEBUG=1 shows what was read or written",
    )
