"""``forget demo``: edit and evaluation on the embedded model, from a recipe to scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.artifact import integrity
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.evaluation import Evaluation, evaluate
from forgetcli.pipeline.apply import STAGES as EDIT_STAGES
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Observer, Silent, Stopwatch, enter
from forgetcli.recipe import Recipe

# For `progress.Stages`. The last one is the caller's, who writes the report.
STAGES = (*EDIT_STAGES, "images and scores", "report")


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
    force: bool = False,
    observer: Observer | None = None,
    watch: Stopwatch | None = None,
) -> Demo:
    """Apply a recipe, then generate and judge images of the unedited and the edited model.

    The finished edit and the finished images of an earlier run are used again.

    Args:
        output: the folder for `edited/` and `pictures/`.
        recipe: a recipe file, or the name of a bundled recipe.
        force: edit and generate again.
        watch: measures the stages ``apply`` and ``evaluate``.
    """
    observer = observer or Silent()
    watch = watch or Stopwatch()
    loaded = recipes.load(recipe)
    edited = output / "edited"
    with watch.stage("apply"):
        if not force and is_finished(edited, loaded):
            observer.note(f"{edited}: the edit of an earlier run is used again")
        else:
            apply(loaded, output=edited, device=device, force=True, observer=observer)
    enter(observer, "images and scores")
    with watch.stage("evaluate"):
        evaluation = evaluate(
            edited,
            recipe=loaded,
            output=output / "pictures",
            device=device,
            force=True,
            keep_images=not force,
            observer=observer,
        )
    observer.done()
    return Demo(recipe=loaded, edited=edited, evaluation=evaluation)


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder is the recipe's model, edited by this recipe alone and unchanged since."""
    try:
        edited = EditedModel.open(folder)
        manifest = edited.manifest
        return (
            manifest.recipe_sha256 == recipe.sha256
            and manifest.method == recipe.method
            and manifest.base_digest == checkpoint.resolve(recipe.model).digest
            and integrity.verify(edited).ok
        )
    except ForgetError:
        return False
