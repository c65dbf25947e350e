"""`tune`: a method's parameters found by search, on prompts that are for that.

Every trial is a whole edit, drawn and judged like any evaluation; the objective is H. The recipe's
own values are the first
trial, so what is found is never worse than what was there, on these prompts. The best of many
trials is an optimist:
what it is worth is for ``forget eval`` to say, on prompts and concepts that the search did not see.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import methods, models
from forgetcli import recipe as recipes
from forgetcli.distributed import Processes
from forgetcli.editing.search_space import Choice, Range
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.questions import Question, of_recipe
from forgetcli.evaluation.run import UNEDITED, Answer, Subject, answered, claim
from forgetcli.evaluation.scores import scores
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic

if TYPE_CHECKING:
    import optuna

    from forgetcli.recipe import Recipe

STUDY, RECIPE = "study.log", "tuned.toml"
FIRST = 3  # one prompt in three is drawn first: enough to give up on
STARTUP = 8  # random trials before the sampler believes its model


@dataclass(frozen=True)
class Trial:
    """One set of values and how it came out. Without scores: the edit could not be made, or did
    nothing.
    """

    number: int
    parameters: Mapping[str, Any]
    state: str  # complete, pruned, failed
    scores: Mapping[str, Any] | None = None
    why: str = ""


@dataclass(frozen=True)
class Tuned:
    """What the search has found. `own` is the recipe as it was, `best` the winner."""

    recipe: Path
    method: str
    own: Trial
    best: Trial
    trials: tuple[Trial, ...]
    baseline: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def completed(self) -> tuple[Trial, ...]:
        """The trials whose edit was made and scored."""
        return tuple(trial for trial in self.trials if trial.state == "complete")

    def as_dict(self) -> dict:
        """The stable keys of ``tune --json``."""

        def told(trial: Trial) -> dict:
            return {
                "number": trial.number,
                "parameters": dict(trial.parameters),
                "state": trial.state,
                "scores": dict(trial.scores) if trial.scores else None,
                "why": trial.why,
            }

        return {
            "output": str(self.recipe),
            "method": self.method,
            "own": told(self.own),
            "best": told(self.best),
            "baseline": dict(self.baseline),
            "trials": [told(t) for t in self.trials],
            "seconds": dict(self.seconds),
        }


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
    device: str | None = None,
    batch: int = 8,
    force: bool = False,
    observer: Observer | None = None,
) -> Tuned:
    """Search the method's ``SEARCH`` space for the highest H on the recipe's evaluation prompts;
    write the recipe with what was found.

    Args:
        recipe: a recipe file or a bundled one, for concepts and prompts that are there to tune on.
        method: tune this method instead of the recipe's.
        model, config: see `pipeline.apply`.
        trials: how many sets of values are tried in all, earlier runs in `output` counted.
        minutes: begin no trial after this time.
        output: the study, images of the unedited model and `tuned.toml`; an interrupted search
            continues there.
        force: throw away another search in `output`.
    Raises:
        ForgetError: the method has nothing to search, no trial came through, or `output` holds
            another search.
    """
    import optuna

    from forgetcli.checkpoint import base as checkpoint

    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    loaded = recipes.load(recipe, overrides, method)
    space = getattr(methods.get(loaded.method), "SEARCH", None)
    if not space:
        raise ForgetError(
            "tune.no-space",
            f"the method '{loaded.method}' does not say what can be searched",
            "give its module a SEARCH",
        )
    judge_, base = (
        judges.load(judge, device),
        checkpoint.resolve(model or loaded.model, config=config),
    )
    questions = [q for q in of_recipe(loaded, judge_) for _ in range(images)]
    trial_of = Trials(
        loaded,
        recipe,
        tuple(overrides),
        method,
        base,
        judge_,
        questions,
        seed,
        images,
        steps,
        output,
        device,
        batch,
        observer,
        watch,
    )
    claim(
        output,
        {
            "models": {UNEDITED: base.drawn_by},
            "recipe": loaded.sha256,
            "method": loaded.method,
            "images": images,
            "seed": seed,
            "steps": steps,
            "judge": judge_.identity(),
        },
        force,
        also=(STUDY, "trials"),
    )
    baseline = trial_of.unedited()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, own = with_own(loaded.on(models.family_of(base.settings)), space)
    study = resumed(output / STUDY, own, seed)
    deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    with watch.stage("trials"):
        while (number := len(finished(study))) < trials and (
            time.monotonic() < deadline or number == 0
        ):
            observer.note(
                f"trial {number + 1} of {trials}"
                + (f", best H {study.best_value:.3f}" if completed(study) else "")
            )
            trial = study.ask()
            try:
                study.tell(trial, trial_of(trial, space))
            except optuna.TrialPruned as pruned:
                trial.set_user_attr("why", str(pruned))
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except EditError as fault:
                trial.set_user_attr("why", str(fault.message))
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    told = tuple(trial_told(t, number) for number, t in enumerate(finished(study)))
    whole = [t for t in told if t.state == "complete"]
    if not whole:
        raise ForgetError(
            "tune.no-trial",
            f"none of {len(told)} trials came through: {told[-1].why}",
            "allow more --trials, or check the recipe",
        )
    best = max(whole, key=lambda t: t.scores["h"])
    with watch.stage("write"), atomic.output_faults(output):
        write_recipe(output / RECIPE, loaded, method, overrides, best)
    observer.done()
    return Tuned(
        output / RECIPE,
        loaded.method,
        told[0],
        best,
        told,
        baseline,
        watch.report(),
    )


@dataclass(frozen=True)
class Trials:
    """Runs one trial: the edit with the suggested values, a first part of its pictures, the rest if
    that gives hope.
    """

    recipe: Recipe
    source: str | Path
    overrides: tuple[str, ...]
    method: str | None
    base: object
    judge: object
    questions: Sequence[Question]
    seed: int
    images: int
    steps: int
    output: Path
    device: str | None
    batch: int
    observer: Observer
    watch: Stopwatch

    def shots(self) -> list:
        from forgetcli.generation.draw import Shot

        return [
            Shot(q.prompt, self.seed + k % self.images, self.steps)
            for k, q in enumerate(self.questions)
        ]

    def unedited(self) -> dict:
        """Scores of the unedited model."""
        forgets = frozenset(self.judge.label(c.concept, c.label) for c in self.recipe.concepts)
        run = answered(
            Subject(UNEDITED, self.base),
            self.questions,
            self.shots(),
            self.judge,
            self.output,
            device=self.device,
            batch=self.batch,
            observer=self.observer,
            watch=self.watch,
            processes=Processes(),
        )
        return scores(run.answers, self.subject(self.base, forgets))

    def subject(self, base, forgets) -> Subject:
        return Subject("trial", base, forgets, frozenset(p for p, _ in self.recipe.edit_pairs()))

    def __call__(self, trial: optuna.Trial, space: Mapping[str, Range | Choice]) -> float:
        """H of the trial; its scores go into the study.

        Raises:
            EditError: the edit cannot be made with these values.
            optuna.TrialPruned: it does nothing, wrecks the model, or is hopeless after the first
                pictures.
        """
        import optuna

        from forgetcli.checkpoint import base as checkpoint
        from forgetcli.pipeline import apply

        values = {key: suggested(trial, key, dimension) for key, dimension in space.items()}
        trial.set_user_attr(
            "parameters", {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        )
        recipe = recipes.load(
            self.source, [*self.overrides, *settings(self.recipe, self.method, values)], self.method
        )
        place = self.output / "trials" / f"{trial.number:04d}"
        try:
            try:
                apply.apply(
                    recipe,
                    model=self.base.reference,
                    config=self.base.config,
                    output=place / "edited",
                    device=self.device,
                    force=True,
                    observer=self.observer,
                )
            except EditError as fault:
                if fault.code in ("edit.no-effect", "edit.wrecked"):
                    raise optuna.TrialPruned(fault.message) from fault
                raise
            forgets = frozenset(self.judge.label(c.concept, c.label) for c in recipe.concepts)
            subject = self.subject(checkpoint.resolve(place / "edited"), forgets)
            first = {i for group in by_concept(self.questions).values() for i in group[::FIRST]}
            drawn = self.drawn(subject, sorted(first), place / "first")
            early = scores(self.judged(drawn), subject)["h"] or 0.0
            trial.report(early, 1)
            if trial.should_prune():
                raise optuna.TrialPruned(
                    f"H {early:.3f} after {len(first)} of {len(self.questions)} pictures"
                )
            drawn |= self.drawn(
                subject, [i for i in range(len(self.questions)) if i not in first], place / "rest"
            )
            found = scores(self.judged(drawn), subject)
        finally:
            shutil.rmtree(
                place, ignore_errors=True
            )  # a checkpoint each would fill the disk; the values make it again
        trial.set_user_attr("scores", found)
        return found["h"] or 0.0

    def drawn(self, subject: Subject, indices: Sequence[int], folder: Path) -> dict[int, Path]:
        from forgetcli.generation.draw import draw

        shots = self.shots()
        paths, _ = draw(
            subject.base,
            [shots[i] for i in indices],
            folder,
            device=self.device,
            batch=self.batch,
            observer=self.observer,
        )
        return dict(zip(indices, paths))

    def judged(self, drawn: Mapping[int, Path]) -> tuple[Answer, ...]:
        from forgetcli.evaluation.verdicts import look

        order = sorted(drawn)
        sights = look(
            self.judge,
            [drawn[i] for i in order],
            [self.questions[i] for i in order],
            self.output / "verdicts",
            processes=Processes(),
            observer=self.observer,
        )
        return tuple(
            Answer(self.questions[i], self.shots()[i].seed, drawn[i], s.seen, s.judged, s.score)
            for i, s in zip(order, sights)
        )


def by_concept(questions: Sequence[Question]) -> dict[tuple[str, str], list[int]]:
    """Indices of the questions of each concept and kind: the first part of a trial has some of all."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, q in enumerate(questions):
        groups.setdefault((q.label, q.kind), []).append(i)
    return groups


def suggested(trial: optuna.Trial, key: str, dimension: Range | Choice) -> Any:
    """The trial's value of one parameter."""
    if isinstance(dimension, Choice):  # by number: the study on disk takes no tuples
        return dimension.values[trial.suggest_categorical(key, list(range(len(dimension.values))))]
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return trial.suggest_int(key, dimension.low, dimension.high, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def with_own(
    recipe: Recipe, space: Mapping[str, Range | Choice]
) -> tuple[dict[str, Range | Choice], dict[str, Any]]:
    """The space, made wide enough for the recipe's own values, and these as its first trial."""
    parameters = (
        methods.get(recipe.method).Parameters.model_validate(recipe.parameters).model_dump()
    )
    wide, own = {}, {}
    for key, dimension in space.items():
        value: Any = parameters
        for part in key.split("."):
            value = value[part]
        if isinstance(dimension, Choice):
            wide[key] = (
                dimension if value in dimension.values else Choice((*dimension.values, value))
            )
            own[key] = wide[key].values.index(value)
        else:
            wide[key] = Range(min(dimension.low, value), max(dimension.high, value), dimension.log)
            own[key] = value
    return wide, own


def settings(recipe: Recipe, method: str | None, values: Mapping[str, Any]) -> list[str]:
    """The values as ``--set`` takes them: in the recipe's own tables, or in those that it has for
    another method.
    """
    prefix = (
        f"methods.{recipe.method}."
        if method is not None and recipe_method(recipe) != recipe.method
        else ""
    )
    return [
        f"{prefix}{key}={list(v) if isinstance(v, tuple) else str(v).lower() if isinstance(v, bool) else v}"
        for key, v in values.items()
    ]


def recipe_method(recipe: Recipe) -> str:
    """The method that the recipe's own text names, whatever it was used with."""
    import tomli

    from forgetcli.recipe import usage

    return tomli.loads(usage.split(recipe.raw.decode())[0]).get("method", "nullspace")


def resumed(path: Path, own: Mapping[str, Any], seed: int) -> optuna.Study:
    """The study on disk, or a new one whose first trial is the recipe's own values. A trial that
    was cut short is tried again.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(
        study_name="tune",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.PercentilePruner(40.0, n_startup_trials=STARTUP, n_warmup_steps=0),
    )
    if not study.trials:
        study.enqueue_trial(dict(own))
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    # another seed after each interruption, or the sampler would suggest again what it has tried
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=STARTUP
    )
    return study


def finished(study: optuna.Study) -> list:
    """Trials that are over, in order; not those that were cut short."""
    return [
        t
        for t in study.trials
        if t.state.is_finished() and ("scores" in t.user_attrs or "why" in t.user_attrs)
    ]


def completed(study: optuna.Study) -> bool:
    return any("scores" in t.user_attrs for t in study.trials)


def trial_told(trial, number: int) -> Trial:
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    return Trial(
        number,
        trial.user_attrs.get("parameters", {}),
        state,
        trial.user_attrs.get("scores"),
        trial.user_attrs.get("why", ""),
    )


def write_recipe(
    path: Path, recipe: Recipe, method: str | None, overrides: Sequence[str], best: Trial
) -> None:
    """The recipe's text with the found values put in; comments and order stay.

    What the command line had changed (``--set``) stays recorded at its end, as in every recipe that
    was used.
    """
    import tomlkit

    from forgetcli.recipe import parameters, usage

    body, recorded = usage.split(recipe.raw.decode())
    document = tomlkit.parse(body)
    holder, above = (
        document,
        ("methods", recipe.method) if recipe_method(recipe) != recipe.method else (),
    )
    for name in above:
        holder = holder.setdefault(name, tomlkit.table(is_super_table=name == "methods"))
    for key, value in best.parameters.items():
        *tables, name = key.split(".")
        place = holder
        for table in tables:
            place = place.setdefault(table, tomlkit.table())
        place[name] = value
        parameters.hold_for_all_families(
            document, (*above, *tables, name)
        )  # as in the trials, where they were set
    head = (
        f"# Parameters of {recipe.method} found by `forget tune` on this recipe's own evaluation prompts (H {best.scores['h']:.3f} there).\n"
        "# The best of many trials is an optimist: measure it on other prompts and concepts.\n"
    )
    kept = tuple(
        o
        for o in recorded.overrides
        if o.partition("=")[0].strip().removeprefix(f"methods.{recipe.method}.")
        not in best.parameters
    )
    atomic.write_atomically(
        path,
        usage.join(head + tomlkit.dumps(document), usage.Record(kept, recorded.files)).encode(),
    )
