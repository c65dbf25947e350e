"""What the long commands would do, without doing it: ``--dry-run`` of `demo`, `compare` and
`tune`.

Everything that they refuse before their first edit is refused here too. Nothing is written, and no
weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forgetcli import recipe as recipes
from forgetcli.editing.search_space import Choice, Range
from forgetcli.evaluation import judges, of_recipe
from forgetcli.experiments import demo
from forgetcli.experiments.comparison import edits
from forgetcli.experiments.comparison.plan import ALL, check_judge, chosen, plans_of
from forgetcli.experiments.comparison.run import Settings, check_folder
from forgetcli.experiments.tuning.run import search_dimensions
from forgetcli.generation.images import refuse_too_many
from forgetcli.pipeline.plan import plan
from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class PlannedEdit:
    """One edit that would be made.

    Attributes:
        recipe, method, model: their names.
        finished: an earlier run has made it, and it would be used again.
        seconds: estimated, for a process that does nothing else; None if unknown or finished.
    """

    recipe: str
    method: str
    model: str
    finished: bool
    seconds: float | None


@dataclass(frozen=True)
class Preview:
    """What a command would do.

    Attributes:
        output: the folder that it would write.
        edits: every edit. A search has one entry, which stands for each trial.
        prompts: evaluation prompts.
        images: images of all models, including those that exist already. Those of near concepts
            that are still to be found, and those of attacks, are not included.
        trials: of a search; else None.
        searched: what a search would try, by parameter.
    """

    output: Path
    edits: tuple[PlannedEdit, ...]
    prompts: int
    images: int
    trials: int | None = None
    searched: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of ``--dry-run --json``."""
        data = {**asdict(self), "dry_run": True, "output": str(self.output)}
        data["edits"] = [asdict(edit) for edit in self.edits]
        return data


def of_demo(
    output: Path, *, recipe: str, device: str | None = None, force: bool = False
) -> Preview:
    """What `demo.run` would do with the same arguments."""
    loaded = recipes.load(recipe)
    prompts = len(of_recipe(loaded, judges.load("demo", device)))
    finished = not force and demo.is_finished(output / "edited", loaded)
    made = _edit(loaded, None, None, finished, device, None)
    return Preview(output, (made,), prompts, images=2 * prompts)


def of_comparison(
    given: Sequence[Recipe | str | Path],
    *,
    methods: str | Sequence[str] = ALL,
    model: str | None = None,
    config: str | Path | None = None,
    images: int = 1,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    features: str | None = "auto",
    quick: bool = False,
    output: Path | str = "compare",
    device: str | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> Preview:
    """What `comparison.compare` would do with the same arguments."""
    names = chosen(methods)
    settings = Settings(images=images, seed=0, steps=1, guidance=None, batch=1, quick=quick)
    refuse_too_many(1, images)
    plans = plans_of(given, names, model=model, config=config, output=Path(output))
    asked = [settings.evaluated(each.recipe) for each in plans]
    check_judge(asked, judge=judge, options=judge_options, features=features, device=device)
    loaded_judge = judges.load(judge, device, judge_options)
    made: list[PlannedEdit] = []
    prompts = pictures = 0
    for each, questions in zip(plans, asked):
        check_folder(each, Path(output), force)
        count = len(of_recipe(questions, loaded_judge))
        prompts += count
        pictures += count * images * len(each.uses)
        for use, folder in zip(each.uses, edits.folders_of(each)):
            finished = not force and edits.existing(use, each.base, folder) is not None
            made.append(_edit(use, model, config, finished, device, dtype, name=each.name))
    return Preview(Path(output), tuple(made), prompts, pictures)


def of_search(
    recipe: str | Path,
    *,
    method: str | None = None,
    overrides: Sequence[str] = (),
    model: str | None = None,
    config: str | Path | None = None,
    trials: int = 30,
    images: int = 1,
    judge: str = "demo",
    output: Path | str = "tune",
    device: str | None = None,
) -> Preview:
    """What `tuning.tune` would do with the same arguments, if no earlier run has made trials."""
    loaded = recipes.load(recipe, overrides, method)
    dimensions = search_dimensions(loaded.method)
    prompts = len(of_recipe(loaded, judges.load(judge, device)))
    refuse_too_many(prompts, images)
    return Preview(
        Path(output),
        (_edit(loaded, model, config, False, device, None),),
        prompts,
        # The unedited model's, and at most those of every trial: hopeless ones are given up.
        images=prompts * images * (1 + trials),
        trials=trials,
        searched={name: _described(dimension) for name, dimension in dimensions.items()},
    )


def _described(dimension: Range | Choice) -> str:
    if isinstance(dimension, Choice):
        return ", ".join(map(str, dimension.values))
    return f"{dimension.low:g} to {dimension.high:g}{', logarithmic' if dimension.log else ''}"


def _edit(
    recipe: Recipe,
    model: str | None,
    config: str | Path | None,
    finished: bool,
    device: str | None,
    dtype: str | None,
    name: str = "",
) -> PlannedEdit:
    planned = plan(recipe, model=model, config=config, device=device, dtype=dtype)
    return PlannedEdit(
        recipe=name or recipe.name,
        method=recipe.method,
        model=planned.base.id,
        finished=finished,
        seconds=None if finished else planned.estimates.seconds,
    )
