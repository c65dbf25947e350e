"""``forget verify``."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.errors import one_line
from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Base = Annotated[
    str | None,
    typer.Option("--base", envvar="FORGET_BASE", show_default="the one it names", help="The unedited model."),
]


def verify(
    folder: Folder = Path("edited"), base: Base = None, json: JsonFlag = False, quiet: QuietFlag = False
) -> None:
    """Check that DIR is exactly what its manifest says, and that nothing else differs from the unedited model.

    Exit code 1 if there is any difference; every one is named.

    \b
    Examples:
      forget verify edited
      forget verify edited --base path/to/sd-folder --json
    """
    from forgetcli import provenance

    sink = Sink("verify", json=json, quiet=quiet)
    verdict = provenance.verify(folder, base=base)
    sink.result(verdict.as_dict(), human=lambda: _shown(folder, verdict), quiet=[folder] if verdict.ok else [])
    raise typer.Exit(0 if verdict.ok else 1)


def _shown(folder: Path, verdict) -> str:
    state = "verified" if verdict.ok else f"NOT what its manifest says: {len(verdict.problems)} differences"
    return "\n".join(
        [
            f"{folder}: {state} ({verdict.files} files, {verdict.edited} edited tensors)",
            *(f"  ✗ {one_line(problem['file'])}: {one_line(problem['what'])}" for problem in verdict.problems),
            *(f"  ✓ {one_line(claim)}" for claim in verdict.proved),
            *(f"  not proved: {one_line(claim)}" for claim in verdict.not_proved),
        ]
    )
