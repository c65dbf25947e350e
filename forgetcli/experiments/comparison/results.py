"""The result of a comparison: the table and the evaluation of each recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forgetcli.checkpoint.base import Base
from forgetcli.display import Result, Shown, percent
from forgetcli.evaluation import Evaluation
from forgetcli.experiments.comparison.rows import UNEDITED, Row, RowPart, pooled
from forgetcli.recipe import Recipe
from forgetcli.robustness.results import Robustness


@dataclass(frozen=True)
class ComparedRecipe:
    """All methods with one recipe.

    Attributes:
        rows: the row of the unedited model, followed by those of the methods.
        evaluation: the images and their scores; None if every method failed.
        attacks: what attacks brought back, by method; empty if none was attacked.
    """

    name: str
    recipe: Recipe
    base: Base
    folder: Path
    rows: tuple[Row, ...]
    evaluation: Evaluation | None
    attacks: Mapping[str, Robustness] = field(default_factory=dict)

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
            "attacks": {method: found.as_dict() for method, found in self.attacks.items()},
        }

    def part(self, row: Row) -> RowPart:
        """A row of this recipe with its images, for pooling over recipes."""
        if self.evaluation is None or row.fault is not None:
            return RowPart(recipe=self.name, row=row)
        if row.name == UNEDITED:
            subject = self.evaluation.edited[0].subject
            return RowPart(recipe=self.name, row=row, run=self.evaluation.baseline, subject=subject)
        succeeded = [other.name for other in self.rows[1:] if other.fault is None]
        run = self.evaluation.edited[succeeded.index(row.name)]
        return RowPart(recipe=self.name, row=row, run=run, subject=run.subject)


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """The whole comparison.

    Attributes:
        rows: the rows pooled over all recipes, or the rows of the only recipe.
        recipes: the results of each recipe.
        judge: the judge's identity.
        settings: the settings with which images were generated.
        seconds: duration of each stage.
    """

    rows: tuple[Row, ...]
    recipes: tuple[ComparedRecipe, ...]
    judge: Mapping[str, object]
    settings: Mapping[str, object]
    seconds: Mapping[str, float]

    def shown(self) -> Shown:
        best = max(self.rows[1:], key=lambda row: (row.scores and row.scores.h.value) or 0.0)
        h = best.scores.h.value if best.scores else None
        images = [part.evaluation.shown().images for part in self.recipes if part.evaluation]
        return Shown(
            f"{', '.join(row.name for row in self.rows[1:])}; highest H: {best.name}, {percent(h)}",
            ("method", "forget", "retain", "H", "seconds"),
            tuple(_described(row) for row in self.rows),
            tuple(image for each in images for image in each),
        )

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


def _described(row: Row) -> tuple[str, ...]:
    if row.fault is not None:
        return (row.name, f"failed: {row.fault.message}", "", "", "")
    scores = row.scores
    shares = [scores.forget, scores.retain, scores.h] if scores else []
    seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
    return (row.name, *(percent(share.value) for share in shares), seconds)


def pooled_rows(recipes: Sequence[ComparedRecipe]) -> tuple[Row, ...]:
    """The rows pooled over all recipes, or the rows of the only recipe."""
    if len(recipes) == 1:
        return recipes[0].rows
    rows = []
    for same_method in zip(*(compared.rows for compared in recipes)):
        parts = [compared.part(row) for compared, row in zip(recipes, same_method)]
        rows.append(pooled(same_method[0].name, parts))
    return tuple(rows)
