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
EDITS = "edited"  # the folder with an edit by each method
IMAGES = "pictures"  # the folder of the evaluation
CONTROL = "none"  # the method that changes nothing
QUICK_PROMPTS = 3  # prompts of each kind and concept in a quick comparison
QUICK_RETAINED = 6  # retained concepts in a quick comparison

Asked = TypeVar("Asked", Concept, Retained)


@dataclass(frozen=True)
class RecipePlan:
    """The edits of one recipe.

    Attributes:
        name: the recipe's name, unique in the comparison; also the name of a folder.
        uses: the recipe as it is used with each method, the control first.
        base: the base model.
        folder: gets the edits and the images.
    """

    name: str
    recipe: Recipe
    uses: tuple[Recipe, ...]
    base: Base
    folder: Path


def chosen(methods: str | Sequence[str]) -> list[str]:
    """The requested methods, each once, without the control, which is always part of a comparison.

    Args:
        methods: names, as a list or with commas between them; ``all``: every method.
    Raises:
        ForgetError: an unknown method, or none that edits.
    """
    given = methods.split(",") if isinstance(methods, str) else methods
    requested = list(dict.fromkeys(name.strip() for name in given if name.strip()))
    for name in requested:
        if name != ALL:
            methods_.get(name)
    available = [name for name in methods_.names() if name != CONTROL]
    names = available if ALL in requested else [name for name in requested if name != CONTROL]
    if not names:
        raise ForgetError(
            "compare.no-method",
            "there is no method to compare with the unedited model",
            f"there are: {', '.join(available)}",
        )
    return names


def plans_of(
    given: Sequence[Recipe | str | Path],
    names: Sequence[str],
    *,
    model: str | None,
    config: str | Path | None,
    output: Path,
) -> list[RecipePlan]:
    """A plan for each recipe.

    Raises:
        ForgetError: a recipe that is not valid with every method, or a base model that cannot be
            loaded.
    """
    loaded = [recipe if isinstance(recipe, Recipe) else recipes_.load(recipe) for recipe in given]
    if not loaded:
        raise ForgetError(
            "compare.no-recipe",
            "there is no recipe to compare methods on",
            "name one or more recipes",
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
    """A name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "_"


def check_judge(
    recipes: Sequence[Recipe],
    *,
    judge: str,
    options: Mapping[str, object] | None,
    features: str | None,
    device: str | None,
) -> dict:
    """The judge's identity. Checked before the edits, which can take long.

    Raises:
        ForgetError: an unknown judge or feature extractor, or a recipe whose prompts the judge
            cannot be asked about.
    """
    if features not in (None, "none", "auto") and features not in features_.names():
        features_.load(features, device)
    loaded = judges.load(judge, device, options)
    for recipe in recipes:
        of_recipe(recipe, loaded)
    return loaded.identity()


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with fewer evaluation prompts, for a quick comparison.

    It keeps the first prompts of each concept, and retained concepts spread over the whole list.
    """

    def first_prompts(concept: Asked) -> Asked:
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
        }
    )
