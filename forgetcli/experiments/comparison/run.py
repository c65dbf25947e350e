"""`compare`: the whole comparison on one page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli import distributed
from forgetcli.artifact.manifest import MANIFEST
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import Evaluation, evaluate
from forgetcli.evaluation.run import UNEDITED, claim
from forgetcli.evaluation.run_folder import not_ours, refuse_others, refuse_unmarked
from forgetcli.experiments.comparison.edits import MethodEdit, edits_of
from forgetcli.experiments.comparison.plan import (
    ALL,
    EDITS,
    IMAGES,
    RecipePlan,
    check_judge,
    chosen,
    plans_of,
    shortened,
)
from forgetcli.experiments.comparison.results import ComparedRecipe, Comparison, pooled_rows
from forgetcli.experiments.comparison.rows import rows_of
from forgetcli.generation.images import DTYPE, refuse_too_many
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """The settings that the images of a comparison are generated with; recorded in its results.

    Attributes:
        quick: use fewer evaluation prompts.
        dtype: what the models run in, for the edits and for the images.
    """

    images: int
    seed: int
    steps: int
    guidance: float | None
    batch: int
    quick: bool
    dtype: str = DTYPE

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `settings` in results.json. `dtype` is recorded unless it is `DTYPE`:
        so that comparisons from before it could be chosen continue.
        """
        settings = asdict(self)
        if self.dtype == DTYPE:
            del settings["dtype"]
        return settings

    def asked(self, recipe: Recipe) -> Recipe:
        """The recipe whose evaluation prompts are used."""
        return shortened(recipe) if self.quick else recipe


@dataclass(frozen=True)
class Judging:
    """The judge of the images and its settings: see `forgetcli.evaluate`."""

    judge: str
    options: Mapping[str, object] | None
    features: str | None


def compare(
    recipes: Recipe | str | Path | Sequence[Recipe | str | Path],
    *,
    methods: str | Sequence[str] = ALL,
    model: str | None = None,
    config: str | Path | None = None,
    images: int = 1,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    features: str | None = "auto",
    quick: bool = False,
    output: Path | str = "compare",
    device: str | None = None,
    batch: int = 8,
    dtype: str = DTYPE,
    force: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Apply recipes with every method, and score all edits and the unedited model at equal prompts
    and seeds.

    A method gets the parameters that the recipe has for it, in its own tables or in
    ``[methods.NAME]``, else its defaults. A method that fails gets a row with the reason.

    Args:
        recipes: loaded recipes, paths, or names of bundled recipes. Each is compared by itself, and
            all are pooled.
        methods: names, as a list or with commas between them; ``all``: every method.
        model, config: base model; default: each recipe's. See `pipeline.apply`.
        images, seed, steps, guidance, judge, judge_options, features, batch, dtype, device: see
            `forgetcli.evaluate`.
        quick: use at most three prompts of a kind for each concept, and six retained concepts.
        output: gets edits, images and verdicts. Complete parts of an earlier run are kept, so an
            interrupted run continues, and methods can be added.
        force: repeat every edit, and delete the results of another run in `output`.
    Raises:
        ForgetError: a recipe, method, judge or model that cannot be used, `output` holds another
            run, or every method failed.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    if distributed.launched():
        raise ForgetError(
            "compare.launched", "a comparison is made by one process", "run it without the launcher"
        )
    names = chosen(methods)
    settings = Settings(images, seed, steps, guidance, batch, quick, dtype)
    # The edits take long, and the evaluation after them refuses it too.
    refuse_too_many(1, images)
    judging = Judging(judge=judge, options=judge_options, features=features)
    with watch.stage("load"):
        given = [recipes] if isinstance(recipes, Recipe | str | Path) else recipes
        plans = plans_of(given, names, model=model, config=config, output=output)
        identity = check_judge(
            [settings.asked(plan.recipe) for plan in plans],
            judge=judge,
            options=judge_options,
            features=features,
            device=device,
        )
        for plan in plans:
            check_folder(plan, output, force)
        claim(output, comparison_identity(plans, settings), force)
    compared = [
        compare_recipe(
            plan,
            settings=settings,
            judging=judging,
            device=device,
            force=force,
            observer=observer,
            watch=watch,
        )
        for plan in plans
    ]
    observer.done()
    check_any_succeeded(compared)
    return Comparison(
        rows=pooled_rows(compared),
        recipes=tuple(compared),
        judge=identity,
        settings=settings.as_dict(),
        seconds=watch.report(),
    )


def check_folder(plan: RecipePlan, output: Path, force: bool) -> None:
    """Check that nothing blocks a recipe's edits and images, before the edits, which take long.

    Raises:
        ForgetError: eval.not-ours: something that this tool did not make.
    """
    if plan.folder != output:
        refuse_others(output, folders=[plan.folder.name])
    refuse_others(plan.folder, folders=[EDITS, IMAGES])
    edits = plan.folder / EDITS
    if os.path.lexists(edits / MANIFEST):
        # The folder is itself an edited model, whose recipe.toml would be overwritten.
        raise not_ours(edits)
    if force:
        refuse_unmarked(plan.folder / IMAGES / UNEDITED)


def comparison_identity(plans: Sequence[RecipePlan], settings: Settings) -> dict:
    """What a comparison must share with an earlier one in the same folder to continue it."""
    return {
        "models": {},
        "bases": {plan.name: plan.base.generation_digest for plan in plans},
        "recipes": {plan.name: plan.recipe.sha256 for plan in plans},
        **settings.as_dict(),
    }


def compare_recipe(
    plan: RecipePlan,
    *,
    settings: Settings,
    judging: Judging,
    device: str | None,
    force: bool,
    observer: Observer,
    watch: Stopwatch,
) -> ComparedRecipe:
    """One recipe: an edit by each method, the evaluation of all, a row for each."""
    with watch.stage("edits"):
        control, edits = edits_of(
            plan, device=device, dtype=settings.dtype, force=force, observer=observer
        )
    with watch.stage("evaluation"):
        evaluation = evaluation_of(
            plan,
            edits,
            settings=settings,
            judging=judging,
            device=device,
            force=force,
            observer=observer,
        )
    return ComparedRecipe(
        name=plan.name,
        recipe=plan.recipe,
        base=plan.base,
        folder=plan.folder,
        rows=rows_of(control, edits, evaluation),
        evaluation=evaluation,
    )


def evaluation_of(
    plan: RecipePlan,
    edits: Sequence[MethodEdit],
    *,
    settings: Settings,
    judging: Judging,
    device: str | None,
    force: bool,
    observer: Observer,
) -> Evaluation | None:
    """The unedited model and every successful edit; None if every method failed."""
    folders = [edit.folder for edit in edits if edit.fault is None]
    if not folders:
        return None
    return evaluate(
        folders,
        recipe=settings.asked(plan.recipe),
        images=settings.images,
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
        judge=judging.judge,
        judge_options=judging.options,
        features=judging.features,
        output=plan.folder / IMAGES,
        device=device,
        batch=settings.batch,
        dtype=settings.dtype,
        force=force,
        # Each image records how it was generated, so images of other methods can stay.
        keep_images=not force,
        observer=observer,
    )


def check_any_succeeded(compared: Sequence[ComparedRecipe]) -> None:
    """
    Raises:
        EditError: every method failed with every recipe.
    """
    rows = [row for part in compared for row in part.rows[1:]]
    faults = [row.fault for row in rows if row.fault is not None]
    if len(faults) == len(rows):
        reasons = "; ".join(f"{row.name}: {fault.message}" for row, fault in zip(rows, faults))
        raise EditError("compare.all-failed", f"every method failed: {reasons}", faults[0].hint)
