"""``forget demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.dry_run import show as show_plan
from forgetcli.cli.options import (
    DeviceOption,
    DryRunFlag,
    ForceFlag,
    JsonFlag,
    QuietFlag,
    ThreadsOption,
)
from forgetcli.cli.score_tables import shares
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.errors import counted
from forgetcli.progress import Stages, Stopwatch, enter

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
    threads: ThreadsOption = None,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Run the whole workflow on the embedded model, in a few minutes: edit, generate images before
    and after, score, report.

    Run it again to resume an interrupted run; --force edits and generates again.

    \b
    Examples:
      forget demo
      forget demo --recipe objects -o demo-objects
      forget demo --dry-run
    """
    sink = Sink("demo", json=json, quiet=quiet, threads=threads)
    if dry_run:
        show_plan(
            sink,
            lambda previews: previews.of_demo(output, recipe=recipe, device=device, force=force),
        )
        return
    with sink.observer() as shown:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.experiments import demo as story
        from forgetcli.report import demo as report

        opening = (
            f"{counted(len(story.STAGES), 'stage')}: {', '.join(story.STAGES)}; about a minute on "
            "two idle cores, several on a busy machine"
        )
        observer, watch = Stages(shown, story.STAGES, opening), Stopwatch()
        result = story.run(
            output, recipe=recipe, device=device, force=force, observer=observer, watch=watch
        )
        enter(observer, "report", alone=True)
        with watch.stage("report"):
            files = report.write(output, result, command=f"forget demo --recipe {recipe}")
        observer.done()
    data = {
        "report": str(files.page),
        "grid": str(files.sheet),
        "output": str(result.edited),
        "evaluation": result.evaluation.as_dict(),
        "seconds": watch.report(),
    }
    sink.result(data, human=lambda: _as_text(data), quiet=files.page)
    sink.next("demo")


def _as_text(data: dict) -> list:
    return [
        *shares(data["evaluation"]),
        facts({"report": data["report"], "grid": data["grid"], "edited model": data["output"]}),
    ]
