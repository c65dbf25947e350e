"""`tune`: searches a method's parameters and writes the recipe with the best values."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from forgetcli import methods, models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import judges, of_recipe
from forgetcli.evaluation.run import UNEDITED, claim
from forgetcli.experiments.tuning.recipe_file import RecipeSource, write_recipe
from forgetcli.experiments.tuning.results import Trial, Tuned, completed
from forgetcli.experiments.tuning.space import Dimension, SearchSpace
from forgetcli.experiments.tuning.study import (
    STUDY,
    finished,
    has_scores,
    open_shared_study,
    open_study,
    recorded_trials,
)
from forgetcli.experiments.tuning.trials import TRIALS, ImageSettings, TrialRunner
from forgetcli.generation.images import refuse_too_many
from forgetcli.process import distributed
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic

RECIPE = "tuned.toml"


def tune(
    recipe: str | Path,
    *,
    method: str | None = None,
    overrides: Sequence[str] = (),
    model: str | None = None,
    config: str | Path | None = None,
    trials: int = 30,
    minutes: float | None = None,
    images: int = 1,
    seed: int = 0,
    steps: int = 20,
    judge: str = "demo",
    output: Path | str = "tune",
    storage: str | None = None,
    device: str | None = None,
    batch: int = 8,
    force: bool = False,
    observer: Observer | None = None,
) -> Tuned:
    """Search the method's ``SEARCH`` space for the highest H on the recipe's evaluation prompts,
    and write the recipe with the best values.

    Under ``accelerate launch`` the images of every trial are shared out among the processes; the
    first one searches, edits and writes.

    Args:
        recipe: a recipe file or a bundled recipe. Its concepts and evaluation prompts are used for
            tuning.
        method: tune this method instead of the recipe's.
        overrides: values of ``--set``.
        model, config: see `pipeline.apply`.
        trials: the number of sets of values to try, including those of earlier runs in `output`.
        minutes: start no trial after this time.
        images, seed, steps, judge, device, batch: see `forgetcli.evaluate`.
        output: folder for the study, images of the unedited model and `tuned.toml`. An interrupted
            search continues there.
        storage: URL of a database in which several machines search together, each with an `output`
            of its own. `trials` counts the trials of all of them. None: a journal in `output`.
        force: delete another search in `output`. A database keeps its trials.
    Raises:
        ForgetError: the method has no search space, no trial was completed, `output` contains
            another or a damaged search, or the database cannot be used.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    processes = distributed.current()
    device = device or distributed.local_device()
    source = RecipeSource(source=recipe, overrides=tuple(overrides), method=method)
    loaded = source.load()
    dimensions = search_dimensions(loaded.method)
    loaded_judge = judges.load(judge, device)
    questions = of_recipe(loaded, loaded_judge)
    refuse_too_many(len(questions), images)
    base = checkpoint.resolve(model or loaded.model, config=config)
    runner = TrialRunner(
        source=source,
        recipe=loaded,
        base=base,
        judge=loaded_judge,
        questions=[question for question in questions for _ in range(images)],
        settings=ImageSettings(images=images, seed=seed, steps=steps, device=device, batch=batch),
        output=output,
        observer=observer,
        processes=processes,
    )
    if processes.main:
        claim(output, search_identity(runner), force, also=(STUDY, TRIALS))
    processes.wait()
    baseline = runner.score_unedited(watch)
    recorded: tuple[Trial, ...] = ()
    with watch.stage("trials"):
        if processes.main:
            space = SearchSpace.around(loaded.on(models.family_of(base.settings)), dimensions)
            study = opened_study(runner, space, storage)
            search(study, runner, space, trials=trials, minutes=minutes)
            runner.dismiss()
            recorded = recorded_trials(study)
        else:
            runner.help()
    recorded = processes.from_first(recorded)
    best = best_of(recorded)
    if processes.main:
        with watch.stage("write"), atomic.output_faults(output):
            write_recipe(output / RECIPE, loaded, best)
    observer.done()
    return Tuned(
        recipe=output / RECIPE,
        method=loaded.method,
        own=recorded[0],
        best=best,
        trials=recorded,
        baseline=baseline,
        seconds=watch.report(),
    )


def search_dimensions(method: str) -> Mapping[str, Dimension]:
    """A method's ``SEARCH`` space.

    Raises:
        ForgetError: tune.no-space: the method has none.
    """
    dimensions = getattr(methods.get(method), "SEARCH", None)
    if not dimensions:
        raise ForgetError(
            "tune.no-space",
            f"the method '{method}' has no search space",
            "define SEARCH in the method's module",
        )
    return dimensions


def search_identity(runner: TrialRunner) -> dict:
    """The settings that must be equal for a search to continue an earlier one in its folder."""
    return {
        "models": {UNEDITED: runner.base.generation_digest},
        "recipe": runner.recipe.sha256,
        "method": runner.recipe.method,
        "images": runner.settings.images,
        "seed": runner.settings.seed,
        "steps": runner.settings.steps,
        "judge": runner.judge.identity(),
    }


def opened_study(runner: TrialRunner, space: SearchSpace, storage: str | None) -> optuna.Study:
    """The search's study: a journal in its folder, or that of the database `storage`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        return open_study(runner.output / STUDY, space.start, runner.settings.seed)
    return open_shared_study(storage, study_name(runner), space.start)


def study_name(runner: TrialRunner) -> str:
    """A name by which machines with the same search find each other, and no others."""
    identity = json.dumps(search_identity(runner), sort_keys=True)
    return f"forget-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def search(
    study: optuna.Study,
    runner: TrialRunner,
    space: SearchSpace,
    *,
    trials: int,
    minutes: float | None,
) -> None:
    """Run trials until `trials` have finished or `minutes` have passed, but at least one trial."""
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    while (number := len(finished(study))) < trials:
        if number > 0 and time.monotonic() >= deadline:
            return
        best = f", best H {study.best_value:.3f}" if has_scores(study) else ""
        runner.observer.note(f"trial {number + 1} of {trials}{best}")
        trial = study.ask()
        try:
            study.tell(trial, runner.run(trial, space))
        except optuna.TrialPruned as pruned:
            trial.set_user_attr("why", str(pruned))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except EditError as fault:
            trial.set_user_attr("why", str(fault.message))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)


def best_of(trials: tuple[Trial, ...]) -> Trial:
    """The completed trial with the highest H; the earliest of several.

    Raises:
        ForgetError: tune.no-trial: no trial was completed.
    """
    scored = completed(trials)
    if not scored:
        raise ForgetError(
            "tune.no-trial",
            f"no trial was completed out of {len(trials)}: {trials[-1].why}",
            "allow more --trials, or check the recipe",
        )
    return max(scored, key=lambda trial: trial.h)
