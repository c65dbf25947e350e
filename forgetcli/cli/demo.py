"""``forget demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetcli.cli.options import DeviceOption, JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts, shares

if TYPE_CHECKING:
    from forgetcli.experiments.demo import Story

Output = Annotated[
    Path,
    typer.Option("--output", "-o", envvar="FORGET_DEMO_OUTPUT", help="Folder for all outputs."),
]
Recipe = Annotated[
    str,
    typer.Option("--recipe", help="A recipe file, or a bundled recipe's name."),
]


def demo(
    output: Output = Path("demo"),
    recipe: Recipe = "art_styles",
    device: DeviceOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Run the whole workflow on the embedded model, in a few minutes: edit, generate images before
    and after, score, report.

    \b
    Examples:
      forget demo
      forget demo --recipe objects -o demo-objects
    """
    sink = Sink("demo", json=json, quiet=quiet)
    with sink.observer() as observer:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.experiments import demo as story

        result = story.run(output, recipe=recipe, device=device, observer=observer)
    sink.result(result.as_dict(), human=lambda: _as_text(result), quiet=result.report)


def _as_text(result: Story) -> list:
    return [
        *shares(result.evaluation.as_dict()),
        facts({"report": result.report, "grid": result.grid, "edited model": result.edited}),
    ]
