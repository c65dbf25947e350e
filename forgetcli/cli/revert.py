"""``forget revert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import forgetcli
from forgetcli.cli.options import DryRunFlag, ForceFlag, JsonFlag, QuietFlag, existing_folder
from forgetcli.cli.sink import Sink
from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from forgetcli.pipeline.revert import Reverted

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", callback=existing_folder, help="The edited model.", show_default=False
    ),
]
Edits = Annotated[
    list[int] | None,
    typer.Option(
        "--edit",
        min=1,
        show_default=False,
        help="Number of an edit, as in forget log. Repeatable.",
    ),
]
Everything = Annotated[
    bool,
    typer.Option(
        "--all",
        envvar="FORGET_REVERT_ALL",
        help="Remove all edits, which restores the base's bytes.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_REVERT_OUTPUT",
        show_default="DIR itself, with --force",
        help="Folder for the result.",
    ),
]


def revert(
    folder: Folder,
    edit: Edits = None,
    everything: Everything = False,
    output: Output = None,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Remove edits from DIR; the other edits stay. The base is not needed.

    Without -o DIR itself is replaced, in one step, which needs --force.

    \b
    Examples:
      forget revert edited --edit 2 -o without-2
      forget revert edited --edit 1 --edit 3 --force
      forget revert edited --all -o base-again
    """
    if bool(edit) == everything:
        raise ForgetError(
            "usage", "say which edits: --edit N, or --all", f"'forget log {folder}' lists them"
        )
    sink = Sink("revert", json=json, quiet=quiet)
    with sink.observer() as observer:
        # Loads torch, after the libraries have been silenced.
        result = forgetcli.revert(
            folder,
            None if everything else edit,
            output=output,
            force=force,
            dry_run=dry_run,
            observer=observer,
        )
    data = result.as_dict() | ({"dry_run": True} if dry_run else {})
    sink.result(
        data, human=lambda: _as_text(result, dry_run), quiet=() if dry_run else result.output
    )
    if result.left and not dry_run:
        sink.next("revert", output=result.output)


def _as_text(result: Reverted, dry_run: bool) -> str:
    removed = ", ".join(map(str, result.reverted))
    left = "no edit remains: it is the base"
    if result.left:
        left = f"remaining: {', '.join(map(str, result.left))}"
    note = " (dry run: nothing was written)" if dry_run else ""
    return f"{result.output}: removed: {removed}; {left}{note}"
