"""``forget log``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import table

if TYPE_CHECKING:
    from rich.table import Table

    from forgetcli.pipeline.log import Log

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]


def log(folder: Folder = Path("edited"), json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the edits that were made to DIR, in order, with their concepts.

    \b
    Examples:
      forget log
      forget log edited-2 --json
    """
    # Imported here: loads torch or pydantic, which completion and help must not wait for.
    from forgetcli.pipeline.log import log as list_edits

    history = list_edits(folder)
    sink = Sink("log", json=json, quiet=quiet)
    sink.result(history.as_dict(), human=lambda: _as_text(history), quiet=folder)
    if history.edits:
        last = history.edits[-1].number
        sink.next("log", folder=folder, edit=last, output=f"{folder}-without-{last}")


def _as_text(history: Log) -> str | Table:
    base = history.base.id
    if history.base.revision:
        base = f"{base}@{history.base.revision}"
    if not history.edits:
        return f"{history.folder}: no edits; it is the base '{base}'"
    return table(
        (">edit", "recipe", "method", "concepts", "date", ">‖Δ‖/‖W‖"),
        (
            [
                e.number,
                e.name,
                e.method,
                ", ".join(f"{concept} → {target or '(nothing)'}" for concept, target in e.concepts),
                e.date[:19].replace("T", " "),
                f"{e.delta_rel:.3g}",
            ]
            for e in history.edits
        ),
        title=f"{history.folder}: edits of the base '{base}'",
    )
