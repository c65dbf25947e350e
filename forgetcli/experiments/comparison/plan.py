"""The plan of a comparison: methods, recipes and base models, checked before any edit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from forgetcli import methods as methods_
from forgetcli import recipe as recipes_
from forgetcli.checkpoint.base import Base, resolve
from forgetcli.errors import ForgetError
from forgetcli.evaluation import features as features_
from forgetcli.evaluation import judges, of_recipe
from forgetcli.evaluation.run import unused
from forgetcli.recipe import Recipe
from forgetcli.recipe.model import Concept, Retained

ALL = "all"
EDITS = "edited"  # the folder with the edits
IMAGES = "pictures"  # the folder of the evaluation
ATTACKS = "attacks"  # the folder of the attacks
CONTROL = "none"  # the method that changes nothing
QUICK_PROMPTS = 3  # prompts of each kind and concept in a quick comparison
QUICK_NEAR = 1  # near concepts of each erased one in a quick comparison
QUICK_RETAINED = 6  # retained concepts in a quick comparison

EvaluatedConcept = TypeVar("EvaluatedConcept", Concept, Retained)


@dataclass(frozen=True)
class RecipePlan:
    """The edits of one recipe.

    Attributes:
        name: the recipe's name, made unique in the comparison and valid as a folder name.
        recipe: the recipe as given.
        uses: the recipe as used with each method, beginning with the control.
        base: the base model.
        folder: the folder for the edits and the images.
    """

    name: str
    recipe: Recipe
    uses: tuple[Recipe, ...]
    base: Base
    folder: Path


def chosen(methods: str | Sequence[str]) -> list[str]:
    """The requested methods without duplicates and without the control, which is always compared.

    Args:
        methods: names, as a list or separated by commas; ``all``: every method.
    Raises:
        ForgetError: a method is unknown, or no method is left.
    """
    listed = methods.split(",") if isinstance(methods, str) else methods
    requested = list(dict.fromkeys(name.strip() for name in listed if name.strip()))
    for name in requested:
        if name != ALL:
            methods_.get(name)
    available = [name for name in methods_.names() if name != CONTROL]
    names = available if ALL in requested else [name for name in requested if name != CONTROL]
    if not names:
        raise ForgetError(
            "compare.no-method",
            "there is no method to compare with the unedited model",
            f"available methods: {', '.join(available)}",
        )
    return names


def plans_of(
    recipes: Sequence[Recipe | str | Path],
    names: Sequence[str],
    *,
    model: str | None,
    config: str | Path | None,
    output: Path,
) -> list[RecipePlan]:
    """A plan for each recipe.

    Raises:
        ForgetError: there is no recipe, a recipe is not valid with every method, or a base model
            cannot be loaded.
    """
    loaded = [recipe if isinstance(recipe, Recipe) else recipes_.load(recipe) for recipe in recipes]
    if not loaded:
        raise ForgetError(
            "compare.no-recipe",
            "there is no recipe to compare methods on",
            "give one or more recipes",
        )
    plans: list[RecipePlan] = []
    for recipe in loaded:
        name = unused(plain(recipe.name), [plan.name for plan in plans])
        uses = tuple(
            recipes_.parse(recipe.raw, recipe.source, method=method) for method in (CONTROL, *names)
        )
        plans.append(
            RecipePlan(
                name=name,
                recipe=recipe,
                uses=uses,
                base=resolve(model or recipe.model, config=config),
                folder=output if len(loaded) == 1 else output / name,
            )
        )
    return plans


def plain(name: str) -> str:
    """A name that is valid as a folder name."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "_"


def check_judge(
    recipes: Sequence[Recipe],
    *,
    judge: str,
    options: Mapping[str, object] | None,
    features: str | None,
    device: str | None,
) -> dict:
    """Load the judge and return its identity. Errors are found here, before the edits, which can
    take long.

    Raises:
        ForgetError: the judge or the feature extractor is unknown, or the judge does not know a
            concept of a recipe.
    """
    if features not in (None, "none", "auto") and features not in features_.names():
        features_.load(features, device)
    loaded = judges.load(judge, device, options)
    for recipe in recipes:
        of_recipe(recipe, loaded)
    return loaded.identity()


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with fewer evaluation prompts, for a quick comparison.

    It has the first prompts of each concept, and retained concepts evenly spaced in the list.
    """

    def first_prompts(concept: EvaluatedConcept) -> EvaluatedConcept:
        return concept.model_copy(
            update={
                "direct": concept.direct[:QUICK_PROMPTS],
                "indirect": concept.indirect[:QUICK_PROMPTS],
            }
        )

    count = min(len(recipe.retain), QUICK_RETAINED)
    retained = [recipe.retain[i * len(recipe.retain) // count] for i in range(count)]
    return recipe.model_copy(
        update={
            "concepts": tuple(first_prompts(concept) for concept in recipe.concepts),
            "retain": tuple(first_prompts(concept) for concept in retained),
            "near": tuple(first_prompts(concept) for concept in recipe.near),
        }
    )
