"""The data of an evaluation: models, their images, and the judge's verdicts on the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.evaluation.questions import Question

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base


@dataclass(frozen=True)
class Subject:
    """A model under evaluation.

    Attributes:
        name: unique within the evaluation; also the name of the folder with its images.
        base: the checkpoint that generates the images.
        forgets: labels of the concepts that it was edited to forget. Empty for the unedited model.
        edit_prompts: prompts that were used to make the edit. They are scored separately.
        recipe_sha256: digest of the recipe of the edit. None for the unedited model.
        apart: (label, prompt) of the questions that use words of the edit; see
            `forgetcli.recipe.clashes`. They are scored separately, too.
        targets: (label, label of its target), where the judge can take an image for the target.
    """

    name: str
    base: Base
    forgets: frozenset[str] = frozenset()
    edit_prompts: frozenset[str] = frozenset()
    recipe_sha256: str | None = None
    targets: frozenset[tuple[str, str]] = frozenset()
    apart: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Answer:
    """One image, generated for a question, with the judge's verdict.

    Attributes:
        question: the prompt and the concept that the judge looked for.
        seed: seed of the image.
        path: PNG file of the image.
        seen: whether the judge sees the concept.
        judged: what the judge takes the image for.
        score: the judge's score for the concept, from 0 to 1.
    """

    question: Question
    seed: int
    path: Path
    seen: bool
    judged: str
    score: float


@dataclass(frozen=True)
class Run:
    """One model's judged images, in the order of the questions."""

    subject: Subject
    answers: tuple[Answer, ...]
