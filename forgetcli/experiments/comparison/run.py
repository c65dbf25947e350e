"""`compare`: the whole comparison on one page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetcli import distributed
from forgetcli import methods as methods_
from forgetcli import recipe as recipes_
from forgetcli.checkpoint.base import Base, resolve
from forgetcli.errors import EditError, ForgetError
from forgetcli.evaluation import Evaluation, Run, Subject, evaluate, judges, of_recipe
from forgetcli.evaluation import features as features_
from forgetcli.evaluation.run import RUN, claim, unused
from forgetcli.experiments.comparison.edits import Edited, edit
from forgetcli.experiments.comparison.rows import CONTROL, UNEDITED, Row, pooled, rows_of
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe
from forgetcli.storage import atomic

ALL = "all"
QUICK_PROMPTS, QUICK_RETAINED = 3, 6  # of each kind and concept; concepts that stay


@dataclass(frozen=True)
class Compared:
    """All methods with one recipe. `rows`: the unedited model first; `evaluation` is None where
    every method failed.
    """

    name: str
    recipe: Recipe
    base: Base
    folder: Path
    rows: tuple[Row, ...]
    evaluation: Evaluation | None

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "recipe_sha256": self.recipe.sha256,
            "folder": str(self.folder),
            "base": {
                "id": self.base.id,
                "revision": self.base.revision,
                "digest": self.base.digest,
            },
            "methods": [row.as_dict() for row in self.rows],
            "evaluation": self.evaluation.as_dict() if self.evaluation else None,
        }


@dataclass(frozen=True)
class Comparison:
    """The table. `rows` are over all recipes; of a single one they are its own."""

    rows: tuple[Row, ...]
    recipes: tuple[Compared, ...]
    judge: Mapping[str, object]
    settings: Mapping[str, object]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
        """The stable keys of ``compare --json`` and results.json."""
        parts = [compared.as_dict() for compared in self.recipes]
        return {
            "methods": [row.as_dict() for row in self.rows],
            "recipes": parts,
            "judge": dict(self.judge),
            "n_images": sum(part["evaluation"]["n_images"] for part in parts if part["evaluation"]),
            "settings": dict(self.settings),
            "seconds": dict(self.seconds),
        }


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
    force: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Apply recipes with every method, and score all edits and the unedited model at equal prompts
    and seeds.

    A method gets the parameters that the recipe has for it, in its own tables or in
    ``[methods.NAME]``, else its
    defaults. One that fails is a row that says so.

    Args:
        recipes: loaded ones, paths, or names of bundled ones; each is compared by itself, and all
            are pooled.
        methods: names, as a list or with commas between them; ``all``: every one there is.
        model, config: base model; default: each recipe's. See `pipeline.apply`.
        images, seed, steps, guidance, judge, judge_options, features, batch, device: see
        `forgetcli.evaluate`.
        quick: draw at most three prompts of a kind for each concept, and six concepts that stay.
        output: where edits, pictures and verdicts are kept. What is complete there is not made
            again, so a run that was cut
            short goes on, and other methods can be added.
        force: make every edit again, and throw away what an earlier, other run left in `output`.
    Raises:
        ForgetError: a recipe, method, judge or model that cannot be used, `output` holds another
            run, or every method failed.
    """
    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    if distributed.launched():
        raise ForgetError(
            "compare.launched", "a comparison is made by one process", "run it without the launcher"
        )
    names = chosen(methods)
    settings = {
        "images": images,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "batch": batch,
        "quick": quick,
    }
    with watch.stage("load"):
        tasks = tasks_of(
            [recipes] if isinstance(recipes, Recipe | str | Path) else recipes,
            names,
            model,
            config,
            output,
        )
        identity = can_be_judged(
            [quickly(task.recipe) if quick else task.recipe for task in tasks],
            judge,
            judge_options,
            features,
            device,
        )
        claim(
            output,
            {
                "models": {},
                "bases": {task.name: task.base.drawn_by for task in tasks},
                "recipes": {task.name: task.recipe.sha256 for task in tasks},
                **settings,
            },
            force,
        )
    compared = []
    for task in tasks:
        with watch.stage("edits"):
            control, edits = edits_of(task, device, force, observer)
        with watch.stage("evaluation"):
            evaluation = None
            folders = [edited.folder for edited in edits if edited.fault is None]
            if folders:
                pictures = task.folder / "pictures"
                if (
                    not force
                ):  # each picture says itself what made it: those of other methods can stay
                    (pictures / RUN).unlink(missing_ok=True)
                evaluation = evaluate(
                    folders,
                    recipe=quickly(task.recipe) if quick else task.recipe,
                    images=images,
                    seed=seed,
                    steps=steps,
                    guidance=guidance,
                    judge=judge,
                    judge_options=judge_options,
                    features=features,
                    output=pictures,
                    device=device,
                    batch=batch,
                    force=True,
                    observer=observer,
                )
        compared.append(
            Compared(
                task.name,
                task.recipe,
                task.base,
                task.folder,
                rows_of(control, edits, evaluation),
                evaluation,
            )
        )
    observer.done()
    failed = [row for part in compared for row in part.rows[1:]]
    if all(row.fault for row in failed):
        fault = failed[0].fault
        raise EditError(
            "compare.all-failed",
            f"every method failed: {'; '.join(f'{row.name}: {row.fault.message}' for row in failed)}",
            fault.hint,
        )
    return Comparison(
        compared[0].rows if len(compared) == 1 else rows_over(compared),
        tuple(compared),
        identity,
        settings,
        watch.report(),
    )


def chosen(methods: str | Sequence[str]) -> list[str]:
    """Every method that is meant, once; never the control, which is there in any case.

    Raises:
        ForgetError: an unknown method, or none that edits.
    """
    given = [name.strip() for name in (methods.split(",") if isinstance(methods, str) else methods)]
    given = list(dict.fromkeys(name for name in given if name))
    for name in given:
        if name != ALL:
            methods_.get(name)
    names = [name for name in (methods_.names() if ALL in given else given) if name != CONTROL]
    if not names:
        raise ForgetError(
            "compare.no-method",
            "there is no method to compare with the unedited model",
            f"there are: {', '.join(name for name in methods_.names() if name != CONTROL)}",
        )
    return names


@dataclass(frozen=True)
class Task:
    """One recipe, and the same recipe as it is used with each method; the control first."""

    name: str
    recipe: Recipe
    uses: tuple[Recipe, ...]
    base: Base
    folder: Path


def tasks_of(
    given: Sequence[Recipe | str | Path],
    names: Sequence[str],
    model: str | None,
    config: str | Path | None,
    output: Path,
) -> list[Task]:
    """What is to be done, with every fault that recipes and models have by themselves.

    Raises:
        ForgetError: a recipe that is not valid with every method, or a base model that cannot be
            had.
    """
    loaded = [recipe if isinstance(recipe, Recipe) else recipes_.load(recipe) for recipe in given]
    if not loaded:
        raise ForgetError(
            "compare.no-recipe",
            "there is no recipe to compare methods on",
            "name one or more recipes",
        )
    tasks: list[Task] = []
    for recipe in loaded:
        name = unused(plain(recipe.name), [task.name for task in tasks])
        uses = tuple(
            recipes_.parse(recipe.raw, recipe.source, method=method) for method in (CONTROL, *names)
        )
        tasks.append(
            Task(
                name,
                recipe,
                uses,
                resolve(model or recipe.model, config=config),
                output if len(loaded) == 1 else output / name,
            )
        )
    return tasks


def plain(name: str) -> str:
    """A name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "_"


def can_be_judged(
    recipes: Sequence[Recipe],
    judge: str,
    options: Mapping[str, object] | None,
    features: str | None,
    device: str | None,
) -> dict:
    """The judge's identity. Before the edits, which can take long, not after.

    Raises:
        ForgetError: an unknown judge or feature extractor, or a recipe whose prompts the judge
            cannot be asked about.
    """
    if features not in (None, "none", "auto") and features not in features_.names():
        features_.load(features, device)
    judge_ = judges.load(judge, device, options)
    for recipe in recipes:
        of_recipe(recipe, judge_)
    return judge_.identity()


def quickly(recipe: Recipe) -> Recipe:
    """A recipe with fewer evaluation prompts: the first ones of each concept, and concepts that
    stay from all over the list.
    """

    def few(concept):
        return concept.model_copy(
            update={
                "direct": concept.direct[:QUICK_PROMPTS],
                "indirect": concept.indirect[:QUICK_PROMPTS],
            }
        )

    count = min(len(recipe.retain), QUICK_RETAINED)
    retained = [recipe.retain[i * len(recipe.retain) // count] for i in range(count)]
    return recipe.model_copy(
        update={"concepts": tuple(map(few, recipe.concepts)), "retain": tuple(map(few, retained))}
    )


def edits_of(
    task: Task, device: str | None, anew: bool, observer: Observer
) -> tuple[Edited, list[Edited]]:
    """The control, which says how much memory goes without any edit, and the edit of every method.

    Raises:
        ForgetError: nothing can be written, or even the control fails: so would every method.
    """
    folder = task.folder / "edited"
    source = folder / "recipe.toml"
    with atomic.output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(source, task.recipe.raw)
    made: list[Edited] = []
    for number, use in enumerate(task.uses):
        observer.stage(
            f"{task.name}: {use.method}"
            + (f" ({number} of {len(task.uses) - 1})" if number else "")
        )
        place = folder / unused(plain(use.method), [edited.folder.name for edited in made])
        made.append(edit(use, task.base, place, source=source, device=device, anew=anew))
        if made[-1].fault is not None:
            fault = made[-1].fault
            if not number:
                raise ForgetError(fault.code, fault.message, fault.hint)
            observer.note(f"{use.method} failed: {fault.message}")
    observer.done()
    return made[0], made[1:]


def rows_over(compared: Sequence[Compared]) -> tuple[Row, ...]:
    """Every row, over all recipes."""
    return tuple(
        pooled(
            rows[0].name,
            [(recipe.name, row, *pictures_of(recipe, row)) for recipe, row in zip(compared, rows)],
        )
        for rows in zip(*(recipe.rows for recipe in compared))
    )


def pictures_of(compared: Compared, row: Row) -> tuple[Run | None, Subject | None]:
    """A row's pictures, and the edited model whose concepts they are scored for."""
    if compared.evaluation is None or row.fault is not None:
        return None, None
    done = [other.name for other in compared.rows[1:] if other.fault is None]
    if row.name == UNEDITED:
        return compared.evaluation.baseline, compared.evaluation.edited[0].subject
    run = compared.evaluation.edited[done.index(row.name)]
    return run, run.subject
