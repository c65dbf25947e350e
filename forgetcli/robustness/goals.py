"""The concepts under attack, and reference images of them from the unedited model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError
from forgetcli.evaluation.questions import label_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from forgetcli.evaluation.judges import Judge
    from forgetcli.recipe import Recipe
    from forgetcli.recipe.model import Concept


@dataclass(frozen=True)
class Goal:
    """A concept that an attack tries to bring back.

    Attributes:
        concept: the concept in the words of the recipe.
        label: the judge's name for the concept.
        aliases: other words for the concept.
        templates: prompts with one {} for the concept.
        prompts: prompts that name the concept. The edit did not use them, unless the recipe has no
            others.
        hints: prompts that only hint at the concept.
        others: a prompt for each concept that should be retained.
        rivals: the judge's labels of the concepts in the same group, `label` included.
    """

    concept: str
    label: str
    aliases: tuple[str, ...]
    templates: tuple[str, ...]
    prompts: tuple[str, ...]
    hints: tuple[str, ...]
    others: tuple[str, ...]
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class References:
    """n images of a concept from the unedited model, in which the judge sees the concept.

    Attributes:
        prompts: the prompt of each image.
        seeds: the seed of each image.
        latents: the images' latents, shape (n, c, h, w).
        images: the decoded images.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    latents: Tensor
    images: tuple[Image, ...]


def of_recipes(recipes: Iterable[Recipe], judge: Judge, names: Sequence[str]) -> list[Goal]:
    """One goal for each concept that the recipes edit.

    Args:
        names: labels or words of the requested concepts; empty: all.
    Raises:
        ForgetError: eval.no-label: the judge does not know a concept; attack.unknown-concept: no
            edited concept has such a name.
    """
    goals: dict[str, Goal] = {}
    for recipe in recipes:
        edited = [(c, label_of(judge, c.concept, c.label)) for c in recipe.concepts]
        retained = [(c, judge.label(c.concept, c.label)) for c in recipe.retain]
        groups: list[tuple[str | None, str | None]] = [
            *((c.group, label) for c, label in edited),
            *((c.group, label) for c, label in retained),
        ]
        for concept, label in edited:
            rivals = [name for group, name in groups if name and group == concept.group]
            goals.setdefault(label, _goal(concept, label, recipe, tuple(dict.fromkeys(rivals))))
    requested = {}
    for name in names:
        label = judge.label(name, name) or name
        if label not in goals:
            raise ForgetError(
                "attack.unknown-concept",
                f"the model was not edited to forget '{name}'",
                f"it forgot: {', '.join(goals)}",
            )
        requested[label] = goals[label]
    return list((requested or goals).values())


def _goal(concept: Concept, label: str, recipe: Recipe, rivals: tuple[str, ...]) -> Goal:
    templates = recipe.prompts.templates
    filled = tuple(template.replace("{}", concept.concept) for template in templates)
    return Goal(
        concept=concept.concept,
        label=label,
        aliases=concept.aliases,
        templates=templates,
        prompts=concept.direct or filled,
        hints=concept.indirect,
        others=tuple(prompt for each in recipe.retain for prompt in each.direct[:1]),
        rivals=rivals,
    )
