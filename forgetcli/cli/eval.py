"""``forget eval``."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.options import DeviceOption, JsonFlag, QuietFlag, SeedOption, StepsOption
from forgetcli.cli.sink import Sink

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The edited model.")]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        envvar="FORGET_RECIPE",
        show_default="the one it was made with",
        help="Whose evaluation prompts to use.",
    ),
]
Images = Annotated[int, typer.Option("--images", "-n", min=1, envvar="FORGET_IMAGES", help="Pictures for each prompt.")]
Judge = Annotated[str, typer.Option("--judge", envvar="FORGET_JUDGE", help="Who decides what is seen.")]
Output = Annotated[Path, typer.Option("--output", "-o", envvar="FORGET_EVAL_OUTPUT", help="Folder for the pictures.")]


def evaluate(
    folder: Folder = Path("edited"),
    recipe: Recipe = None,
    images: Images = 1,
    judge: Judge = "demo",
    output: Output = Path("eval"),
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    device: DeviceOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure what an edited model has forgotten and what it has kept, beside the unedited one.

    \b
    Examples:
      forget eval
      forget eval edited -n 4 --json
      forget eval edited --recipe objects
    """
    sink = Sink("eval", json=json, quiet=quiet)
    loaded = None
    if recipe is not None:
        from forgetcli import recipe as recipes

        loaded = recipes.load(recipe)
    with sink.observer() as observer:
        from forgetcli import evaluation

        result = evaluation.evaluate(
            folder,
            recipe=loaded,
            images=images,
            seed=seed,
            steps=steps,
            judge=judge,
            output=output,
            device=device,
            observer=observer,
        )
    data = result.as_dict()
    sink.result(data, human=lambda: _shown(data), quiet=output)


def _shown(data: dict) -> list:
    from forgetcli.cli.tables import shares

    return list(shares(data))
