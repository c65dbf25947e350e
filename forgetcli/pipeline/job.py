"""A recipe, its base model and its method, brought together and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import BaseModel

from forgetcli import methods, models
from forgetcli import recipe as recipes
from forgetcli.checkpoint import base as checkpoint

if TYPE_CHECKING:
    from forgetcli.artifact.ledger_files import Origin
    from forgetcli.checkpoint.base import Base
    from forgetcli.editing.cost import Cost
    from forgetcli.editing.task import Task
    from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class ModelId:
    """The name of a base model, for results; the attributes are those of `checkpoint.Base`."""

    id: str
    revision: str | None
    digest: str

    @classmethod
    def of(cls, base: Base | Origin) -> ModelId:
        return cls(base.id, base.revision, base.digest)


@dataclass(frozen=True)
class Job:
    """A recipe for one base model.

    Attributes:
        recipe: the recipe for the base's family; see `Recipe.on`.
        method: the module of the recipe's method.
        parameters: the method's parameters, with defaults filled in.
    """

    recipe: Recipe
    base: Base
    method: ModuleType
    parameters: BaseModel

    def cost(self, task: Task) -> Cost | None:
        """The work that the method asks of the model; None for a method that does not say."""
        if not hasattr(self.method, "cost"):
            return None
        cost: Cost = self.method.cost(task, self.parameters)
        return cost


def prepare(recipe: Recipe | str | Path, model: str | None, config: Path | str | None) -> Job:
    """Read the recipe and find the model; no weights are read.

    Args:
        recipe: a loaded recipe, a path, or the name of a bundled one.
        model: base model; default: the recipe's.
        config: for a single file: the diffusers folder with its configs and tokenizer.
    Raises:
        ForgetError: recipe or model cannot be used.
    """
    recipe = recipe if isinstance(recipe, recipes.Recipe) else recipes.load(recipe)
    method = methods.get(recipe.method)
    base = checkpoint.resolve(model or recipe.model, config=config)
    base.refuse_unrecordable()
    recipe = recipe.on(models.family_of(base.settings))
    return Job(recipe, base, method, method.Parameters.model_validate(recipe.parameters))
