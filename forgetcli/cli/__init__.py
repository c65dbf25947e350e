"""The command line: a command is parse → one call → print. Nothing is computed here, nothing
printed elsewhere.
"""

from __future__ import annotations

import sys

from forgetcli.cli import signals, stdout


def main() -> int:
    """Run ``forget`` with the process's arguments; the exit code.

    0 done, 1 a negative verdict, 2 could not, 130 and 143 interrupted.
    """
    stdout.ensure()
    failure: BaseException | None = None
    code = 0
    try:
        signals.install()  # before typer is loaded: that alone is long enough for a Ctrl-C
        code = _run()
    except BaseException as error:
        failure = error
    signals.end()
    if failure is not None or signals.received is not None:
        code = _reported(failure)
    stdout.close()
    return code


def _reported(failure: BaseException | None) -> int:
    """Say what ended the command: a signal, or else `failure`; the exit code."""
    # Imported here: loads typer, which a command that succeeds has loaded already.
    from forgetcli.cli import errors

    if signals.received is not None:
        return errors.report_signal(signals.received)
    assert failure is not None
    return errors.report(failure)


def _run() -> int:
    from forgetcli.cli.app import app

    try:
        code = app(prog_name="forget", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SystemExit as leaving:
        # typer exits with 1 when the reader of its help has closed the pipe. That is no verdict.
        return 0 if leaving.code in (None, 1) else int(leaving.code or 0)
