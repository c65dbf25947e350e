"""``forget tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import forgetcli
from forgetcli.cli.dry_run import show as show_plan
from forgetcli.cli.options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    DryRunFlag,
    ForceFlag,
    JsonFlag,
    ModelOption,
    QuietFlag,
    RecipeName,
    SeedOption,
    SetOption,
    StepsOption,
    ThreadsOption,
    finite,
)
from forgetcli.cli.score_tables import search
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts

Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        show_default="the recipe's",
        help="Tune this method instead.",
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials",
        min=1,
        help="Sets of values to try, including those of earlier runs.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        callback=finite,
        min=0.0,
        show_default="no limit",
        help="Start no trial after this time.",
    ),
]
Images = Annotated[
    int,
    typer.Option("--images", "-n", min=1, help="Images for each prompt."),
]
Judge = Annotated[
    str,
    typer.Option("--judge", help="Classifier that judges the images: demo, clip, vlm or nudenet."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_TUNE_OUTPUT",
        help="Folder for the search and its results.",
    ),
]

Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="FORGET_TUNE_STORAGE",
        show_default="a file in the output folder",
        help="URL of a database in which several machines search together.",
    ),
]


def tune(
    recipe: RecipeName,
    method: Method = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    trials: Trials = 30,
    minutes: Minutes = None,
    images: Images = 1,
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    judge: Judge = "demo",
    output: Output = Path("tune"),
    storage: Storage = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    batch: BatchOption = 8,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Search a method's parameters for the best H on RECIPE's evaluation prompts.

    Writes tuned.toml, the recipe with the best values, and front.svg. Run it again to resume an
    interrupted search. Score the result on other concepts and prompts, because the search has seen
    these.

    \b
    Examples:
      forget tune objects --trials 40 --minutes 60
      forget tune objects --method uce -o tune-uce
      forget tune objects --storage postgresql://HOST/NAME --trials 200
      forget tune objects --dry-run
      accelerate launch -m forgetcli tune objects
      forget apply tune/tuned.toml
    """
    sink = Sink("tune", json=json, quiet=quiet, threads=threads, shared=True)
    both: dict[str, Any] = {
        "method": method,
        "overrides": set_ or (),
        "model": model,
        "config": config,
        "trials": trials,
        "images": images,
        "judge": judge,
        "output": output,
        "device": device,
    }
    if dry_run:
        show_plan(sink, lambda previews: previews.of_search(recipe, **both))
        return
    with sink.observer() as observer:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.report.tuning import FRONT, write_front

        result = forgetcli.tune(
            recipe,
            minutes=minutes,
            storage=storage,
            seed=seed,
            steps=steps,
            batch=batch,
            force=force,
            observer=observer,
            **both,
        )
        front = output / FRONT
        if sink.main:
            write_front(front, result)
    if not sink.main:
        # The first process reports.
        return
    # `front` is the second key of the object that programs read.
    data = {"output": str(result.recipe), "front": str(front), **result.as_dict()}
    sink.result(data, human=lambda: _as_text(data), quiet=result.recipe)
    named = None if model is None else ["--model", model]
    sink.next("tune", recipe=result.recipe, model=named)


def _as_text(data: dict) -> list:
    return [
        search(data),
        facts(
            {"found": data["best"]["parameters"], "recipe": data["output"], "front": data["front"]}
        ),
    ]
