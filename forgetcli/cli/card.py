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
        help="Scores for the card: the results.json of forget eval.",
    ),
]


def card(
    folder: Folder = Path("edited"),
    results: Results = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the model card of DIR (README.md) again, with the scores of an evaluation.

    The manifest is updated. A signature is removed, because it covers the old card: sign again.

    \b
    Examples:
      forget card edited --eval eval/results.json
      forget card edited
    """
    # Imported here: loads torch or pydantic, which completion and help must not wait for.
    from forgetcli.artifact import card as cards

    sink = Sink("card", json=json, quiet=quiet)
    signed = (folder / cards.manifest.SIGNATURE).exists()
    path = cards.rewrite(folder, results)
    sink.result(
        {"card": str(path), "scores": results is not None}, human=lambda: str(path), quiet=path
    )
    if signed:
        sink.remark(
            "the signature covered the earlier card and was removed: run forget sign again",
            title="note",
        )
