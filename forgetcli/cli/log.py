"""``forget log``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]


def log(folder: Folder = Path("edited"), json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the edits that were made to DIR, one after the other, with what each forgot.

    \b
    Examples:
      forget log
      forget log edited-2 --json
    """
    from forgetcli.pipeline import revert

    found = revert.log(folder)
    Sink("log", json=json, quiet=quiet).result(
        found.as_dict(), human=lambda: _shown(found), quiet=folder
    )


def _shown(found):
    from forgetcli.cli.tables import table

    base = found.base.id + (f"@{found.base.revision}" if found.base.revision else "")
    if not found.edits:
        return f"{found.folder}: no edits; it is the base '{base}'"
    return table(
        (">edit", "recipe", "method", "concepts", "date", ">‖Δ‖/‖W‖"),
        (
            [
                e.number,
                e.name,
                e.method,
                ", ".join(f"{concept} → {target}" for concept, target in e.concepts),
                e.date[:19].replace("T", " "),
                f"{e.delta_rel:.3g}",
            ]
            for e in found.edits
        ),
        title=f"{found.folder}: edits of the base '{base}'",
    )
