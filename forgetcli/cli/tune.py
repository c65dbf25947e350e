"""``forget tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    ForceFlag,
    JsonFlag,
    ModelOption,
    QuietFlag,
    RecipeName,
    SeedOption,
    SetOption,
    StepsOption,
)
from forgetcli.cli.sink import Sink

Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        envvar="FORGET_METHOD",
        show_default="the recipe's",
        help="Tune this method instead.",
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials",
        min=1,
        envvar="FORGET_TRIALS",
        help="Sets of values to try, earlier runs counted.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        min=0.0,
        envvar="FORGET_MINUTES",
        show_default="no limit",
        help="Begin no trial after this time.",
    ),
]
Images = Annotated[
    int,
    typer.Option("--images", "-n", min=1, envvar="FORGET_IMAGES", help="Pictures for each prompt."),
]
Judge = Annotated[
    str, typer.Option("--judge", envvar="FORGET_JUDGE", help="Who decides what is seen.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_TUNE_OUTPUT",
        help="Folder for the search and what it finds.",
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
    set_: SetOption = None,
    device: DeviceOption = None,
    batch: BatchOption = 8,
    force: ForceFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Search a method's parameters for the best H on RECIPE's evaluation prompts.

    Writes tuned.toml, the recipe with what was found, and front.svg. Run it again to go on where it
    was cut short.
    Score what it finds on other concepts and prompts: these have been used.

    \b
    Examples:
      forget tune objects --trials 40 --minutes 60
      forget tune objects --method uce -o tune-uce
      forget apply tune/tuned.toml
    """
    sink = Sink("tune", json=json, quiet=quiet)
    with sink.observer() as observer:
        from forgetcli.experiments import tuning
        from forgetcli.report.tuning import FRONT, write_front

        result = tuning.tune(
            recipe,
            method=method,
            overrides=set_ or (),
            model=model,
            config=config,
            trials=trials,
            minutes=minutes,
            images=images,
            seed=seed,
            steps=steps,
            judge=judge,
            output=output,
            device=device,
            batch=batch,
            force=force,
            observer=observer,
        )
        front = output / FRONT
        write_front(front, result)
    # `front` stands second in the object that programs read.
    data = {"output": str(result.recipe), "front": str(front), **result.as_dict()}
    sink.result(data, human=lambda: _shown(data), quiet=result.recipe)


def _shown(data: dict) -> list:
    from forgetcli.cli.tables import facts, search

    return [
        search(data),
        facts(
            {"found": data["best"]["parameters"], "recipe": data["output"], "front": data["front"]}
        ),
    ]
