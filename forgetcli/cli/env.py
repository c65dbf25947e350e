"""``forget env``."""

from __future__ import annotations

from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.pipeline import environment


def env(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Print versions, devices and folders, for a bug report.

    \b
    Example:
      forget env --json > report.json
    """
    report = environment.report()
    Sink("env", json=json, quiet=quiet).result(
        report, human=lambda: facts(report), quiet=report["cache_dir"]
    )
