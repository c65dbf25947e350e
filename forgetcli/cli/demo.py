"""``forget demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import DeviceOption, JsonFlag, QuietFlag
from forgetcli.cli.sink import Sink
from forgetcli.progress import Stopwatch

Output = Annotated[
    Path, typer.Option("--output", "-o", envvar="FORGET_DEMO_OUTPUT", help="Folder for all of it.")
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe", envvar="FORGET_RECIPE", help="A recipe file, or a bundled recipe's name."
    ),
]


def demo(
    output: Output = Path("demo"),
    recipe: Recipe = "art_styles",
    device: DeviceOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """The whole story on the embedded model, in a few minutes: edit, draw before and after, score,
    report.

    \b
    Examples:
      forget demo
      forget demo --recipe objects -o demo-objects
    """
    sink = Sink("demo", json=json, quiet=quiet)
    with sink.observer() as observer:
        from forgetcli.experiments import demo as story
        from forgetcli.report import demo as report

        watch = Stopwatch()
        result = story.run(output, recipe=recipe, device=device, observer=observer, watch=watch)
        with watch.stage("report"):
            files = report.write(output, result, command=f"forget demo --recipe {recipe}")
    data = {
        "report": str(files.page),
        "grid": str(files.sheet),
        "output": str(result.edited),
        "evaluation": result.evaluation.as_dict(),
        "seconds": watch.report(),
    }
    sink.result(data, human=lambda: _shown(data), quiet=files.page)


def _shown(data: dict) -> list:
    from forgetcli.cli.tables import facts, shares

    return [
        *shares(data["evaluation"]),
        facts({"report": data["report"], "grid": data["grid"], "edited model": data["output"]}),
    ]
