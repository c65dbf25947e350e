"""``forget demo``: edit and evaluation on the embedded model, from a recipe to scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.evaluation import Evaluation, evaluate
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class Demo:
    """An edited model and its evaluation beside the unedited model.

    Attributes:
        recipe: the recipe that the model was edited with.
        edited: folder of the edited model.
        evaluation: the images of both models and their scores.
    """

    recipe: Recipe
    edited: Path
    evaluation: Evaluation


def run(
    output: Path,
    *,
    recipe: str = "art_styles",
    device: str | None = None,
    observer: Observer | None = None,
    watch: Stopwatch | None = None,
) -> Demo:
    """Apply a recipe, then generate and judge images of the unedited and the edited model.

    Args:
        output: gets `edited/` and `pictures/`.
        recipe: a recipe file, or the name of a bundled recipe.
        watch: gets the seconds of the stages ``apply`` and ``evaluate``.
    """
    observer = observer or Silent()
    watch = watch or Stopwatch()
    loaded = recipes.load(recipe)
    with watch.stage("apply"):
        applied = apply(
            loaded, output=output / "edited", device=device, force=True, observer=observer
        )
    with watch.stage("evaluate"):
        evaluation = evaluate(
            applied.output,
            recipe=loaded,
            output=output / "pictures",
            device=device,
            force=True,
            observer=observer,
        )
    observer.done()
    return Demo(recipe=loaded, edited=applied.output, evaluation=evaluation)
