"""`compare`: plans, edits, evaluates and pools."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forgetcli.artifact.manifest import MANIFEST
from forgetcli.errors import EditError
from forgetcli.evaluation import Evaluation, evaluate
from forgetcli.evaluation.near import NEAR
from forgetcli.evaluation.run import UNEDITED, claim
from forgetcli.evaluation.run_folder import not_ours, refuse_others, refuse_unmarked
from forgetcli.experiments.comparison.attacks import AttackSelection, attack_edits, resistance
from forgetcli.experiments.comparison.edits import MethodEdit, edits_of
from forgetcli.experiments.comparison.plan import (
    ALL,
    ATTACKS,
    EDITS,
    IMAGES,
    QUICK_NEAR,
    RecipePlan,
    check_judge,
    chosen,
    plans_of,
    shortened,
)
from forgetcli.experiments.comparison.results import ComparedRecipe, Comparison, pooled_rows
from forgetcli.experiments.comparison.rows import rows_of
from forgetcli.generation.images import DTYPE, refuse_too_many
from forgetcli.process import distributed
from forgetcli.process.device import AUTO
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe
from forgetcli.robustness.results import Robustness
from forgetcli.robustness.run import Settings as AttackSettings


@dataclass(frozen=True)
class Settings:
    """The settings with which a comparison generates images. They are recorded in its results.

    Attributes:
        images, seed, steps, guidance, batch: see `forgetcli.evaluate`.
        quick: use fewer evaluation prompts.
        dtype: what the models run in, for the edits and for the images.
    """

    images: int
    seed: int
    steps: int
    guidance: float | None
    batch: int
    quick: bool
    dtype: str = AUTO

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `settings` in results.json. `dtype` is recorded unless it is `DTYPE`:
        so that comparisons from before it could be chosen continue.
        """
        settings = asdict(self)
        if self.dtype in (DTYPE, AUTO):
            del settings["dtype"]
        return settings

    def evaluated(self, recipe: Recipe) -> Recipe:
        """The recipe with the evaluation prompts to use."""
        return shortened(recipe) if self.quick else recipe


@dataclass(frozen=True)
class Judging:
    """The judge and the feature extractor, with settings; see `forgetcli.evaluate`."""

    judge: str
    options: Mapping[str, object] | None
    features: str | None


@dataclass(frozen=True)
class Course:
    """What the parts of one comparison share."""

    settings: Settings
    judging: Judging
    selection: AttackSelection
    device: str | None
    force: bool
    observer: Observer
    watch: Stopwatch


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
    attacks: Sequence[str] = (),
    attack_options: Mapping[str, Mapping[str, object]] | None = None,
    attempts: int = AttackSelection.attempts,
    output: Path | str = "compare",
    device: str | None = None,
    batch: int = 8,
    dtype: str = AUTO,
    force: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Apply recipes with every method, and score all edits and the unedited model.

    All models are scored with equal prompts and seeds. A method gets its parameters from the
    recipe's own tables or from ``[methods.NAME]``. Other parameters have their defaults. A method
    that fails gets a row with the reason. Under ``accelerate launch`` the edits, images and attacks
    are shared out among the processes. The result of the first process has all measures.

    Args:
        recipes: loaded recipes, paths, or names of bundled recipes. The table has rows for each
            recipe and rows pooled over all recipes.
        methods: names, as a list or separated by commas; ``all``: every method.
        model, config: the base model; default: each recipe's own. See `pipeline.apply`.
        images, seed, steps, guidance, judge, judge_options, features, batch, dtype, device: see
            `forgetcli.evaluate`.
        quick: use at most three prompts of each kind for each concept, and six retained concepts.
        attacks: names of attacks; each runs on every method's edit and on the unedited model.
        attack_options: attack → its settings.
        attempts: the number of attempts of each attack to generate each concept.
        output: folder for edits, images and verdicts. Complete parts of an earlier run are used
            again, so that an interrupted run can continue and methods can be added.
        force: repeat every edit, and delete the results of another run in `output`.
    Raises:
        ForgetError: a recipe, method, judge or model cannot be used; `output` contains another run;
            or every method failed.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    course = Course(
        settings=Settings(images, seed, steps, guidance, batch, quick, dtype),
        judging=Judging(judge=judge, options=judge_options, features=features),
        selection=AttackSelection(tuple(dict.fromkeys(attacks)), attack_options or {}, attempts),
        device=device or distributed.local_device(),
        force=force,
        observer=observer,
        watch=watch,
    )
    names = chosen(methods)
    # The evaluation would refuse this too, but only after the edits, which take long.
    refuse_too_many(1, images)
    course.selection.check()
    with watch.stage("load"):
        several = [recipes] if isinstance(recipes, Recipe | str | Path) else recipes
        plans = plans_of(several, names, model=model, config=config, output=output)
        identity = check(plans, course, output)
    compared = [compare_recipe(plan, course) for plan in plans]
    observer.done()
    check_any_succeeded(compared)
    return Comparison(
        rows=pooled_rows(compared),
        recipes=tuple(compared),
        judge=identity,
        settings=course.settings.as_dict(),
        seconds=watch.report(),
    )


def check(plans: Sequence[RecipePlan], course: Course, output: Path) -> dict:
    """Check everything that can be checked before the edits, and claim the folder.

    Returns:
        The judge's identity.
    Raises:
        ForgetError: those of `check_judge`, `check_folder` and `claim`.
    """
    identity = check_judge(
        [course.settings.evaluated(plan.recipe) for plan in plans],
        judge=course.judging.judge,
        options=course.judging.options,
        features=course.judging.features,
        device=course.device,
    )
    for plan in plans:
        check_folder(plan, output, course.force)
    processes = distributed.current()
    if processes.main:
        claim(output, comparison_identity(plans, course.settings), course.force)
    processes.wait()
    return identity


def check_folder(plan: RecipePlan, output: Path, force: bool) -> None:
    """Check that a recipe's edits and images can be written. This comes before the edits, because
    they take long.

    Raises:
        ForgetError: eval.not-ours: forget did not write what exists there.
    """
    if plan.folder != output:
        refuse_others(output, folders=[plan.folder.name])
    refuse_others(plan.folder, folders=[EDITS, IMAGES, ATTACKS])
    edits = plan.folder / EDITS
    if os.path.lexists(edits / MANIFEST):
        # The folder is itself an edited model. Its recipe.toml would be overwritten.
        raise not_ours(edits)
    if force:
        refuse_unmarked(plan.folder / IMAGES / UNEDITED)


def comparison_identity(plans: Sequence[RecipePlan], settings: Settings) -> dict:
    """The settings that must be equal for a comparison to continue an earlier one in the folder."""
    return {
        "models": {},
        "bases": {plan.name: plan.base.generation_digest for plan in plans},
        "recipes": {plan.name: plan.recipe.sha256 for plan in plans},
        **settings.as_dict(),
    }


def compare_recipe(plan: RecipePlan, course: Course) -> ComparedRecipe:
    """Compare the methods on one recipe: edit with each method, evaluate and attack all edits,
    build rows.
    """
    with course.watch.stage("edits"):
        control, edits = edits_of(
            plan,
            device=course.device,
            dtype=course.settings.dtype,
            force=course.force,
            observer=course.observer,
        )
    with course.watch.stage("evaluation"):
        evaluation = evaluation_of(plan, edits, course)
    robustness = {}
    if course.selection.names:
        with course.watch.stage("attacks"):
            robustness = attacks_of(plan, edits, course)
    if evaluation is not None:
        by_digest = {
            results.model["digest"]: resistance(results) for results in robustness.values()
        }
        evaluation = replace(evaluation, attacks=by_digest)
    return ComparedRecipe(
        name=plan.name,
        recipe=plan.recipe,
        base=plan.base,
        folder=plan.folder,
        rows=rows_of(control, edits, evaluation, robustness),
        evaluation=evaluation,
        attacks=robustness,
    )


def evaluation_of(
    plan: RecipePlan, edits: Sequence[MethodEdit], course: Course
) -> Evaluation | None:
    """Evaluate the unedited model and every successful edit. None: every method failed."""
    folders = [edit.folder for edit in edits if edit.fault is None]
    if not folders:
        return None
    settings, judging = course.settings, course.judging
    return evaluate(
        folders,
        recipe=settings.evaluated(plan.recipe),
        images=settings.images,
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
        judge=judging.judge,
        judge_options=judging.options,
        features=judging.features,
        output=plan.folder / IMAGES,
        device=course.device,
        batch=settings.batch,
        dtype=settings.dtype,
        force=course.force,
        # Each image records its origin, so images of other methods can stay.
        keep_images=not course.force,
        near_concepts=QUICK_NEAR if settings.quick else NEAR,
        observer=course.observer,
    )


def attacks_of(
    plan: RecipePlan, edits: Sequence[MethodEdit], course: Course
) -> dict[str, Robustness]:
    """Method → what the attacks brought back."""
    settings, judging = course.settings, course.judging
    return attack_edits(
        plan,
        edits,
        course.selection,
        settings=AttackSettings(
            images=course.selection.attempts,
            seed=settings.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            batch=settings.batch,
        ),
        judge=judging.judge,
        judge_options=judging.options,
        device=course.device,
        observer=course.observer,
    )


def check_any_succeeded(compared: Sequence[ComparedRecipe]) -> None:
    """Refuse a comparison without any successful edit.

    Raises:
        EditError: compare.all-failed: every method failed with every recipe.
    """
    rows = [row for part in compared for row in part.rows[1:]]
    faults = [row.fault for row in rows if row.fault is not None]
    if len(faults) == len(rows):
        reasons = "; ".join(f"{row.name}: {fault.message}" for row, fault in zip(rows, faults))
        raise EditError("compare.all-failed", f"every method failed: {reasons}", faults[0].hint)
