"""``forget card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Results = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        envvar="FORGET_CARD_EVAL",
        show_default=False,
        help="Scores to put in: the results.json of forget eval.",
    ),
]


def card(
    folder: Folder = Path("edited"),
    results: Results = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the model card of DIR anew, its README.md, with the scores of an evaluation.

    The manifest is brought up to date. A signature goes: sign again.

    \b
    Examples:
      forget card edited --eval eval/results.json
      forget card edited
    """
    from forgetcli.artifact import card as cards
    from forgetcli.artifact.manifest import SIGNATURE

    sink = Sink("card", json=json, quiet=quiet)
    signed = (folder / SIGNATURE).exists()
    path = cards.rewrite(folder, results)
    sink.result(
        {"card": str(path), "scores": results is not None}, human=lambda: str(path), quiet=path
    )
    if signed:
        sink.remark(
            "the signature was of the earlier card and is gone: run forget sign again", title="note"
        )
