"""The search space of a method, and the values that a trial takes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forgetcli import methods
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    import optuna

    from forgetcli.recipe import Recipe

Dimension = Range | Choice


@dataclass(frozen=True)
class SearchSpace:
    """The values that a search may try.

    Attributes:
        dimensions: the possible values of each parameter, by dotted parameter name.
        start: the values of the first trial, as the study stores them: the value of a `Range`, or
            the index of a value in a `Choice`.
    """

    dimensions: Mapping[str, Dimension]
    start: Mapping[str, Any]

    @classmethod
    def around(cls, recipe: Recipe, dimensions: Mapping[str, Dimension]) -> SearchSpace:
        """A method's ``SEARCH`` space, widened to contain the recipe's own values. The first trial
        uses these values.
        """
        schema = methods.get(recipe.method).Parameters
        parameters = schema.model_validate(recipe.parameters).model_dump()
        widened: dict[str, Dimension] = {}
        start: dict[str, Any] = {}
        for key, dimension in dimensions.items():
            value: Any = parameters
            for part in key.split("."):
                value = value[part]
            if isinstance(dimension, Choice):
                values = dimension.values
                if value not in values:
                    values = (*values, value)
                widened[key] = Choice(values)
                start[key] = values.index(value)
            else:
                # A logarithmic scale has no 0. If the recipe's value is 0, the scale is linear.
                widened[key] = Range(
                    low=min(dimension.low, value),
                    high=max(dimension.high, value),
                    log=dimension.log and value > 0,
                )
                start[key] = value
        return cls(dimensions=widened, start=start)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's values, by dotted parameter name."""
        return {key: suggest(trial, key, dimension) for key, dimension in self.dimensions.items()}


def suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    """The trial's value for one parameter."""
    if isinstance(dimension, Choice):
        # The study on disk cannot store tuples, so it stores the index of the value.
        indices = list(range(len(dimension.values)))
        return dimension.values[trial.suggest_categorical(key, indices)]
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return trial.suggest_int(key, dimension.low, dimension.high, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)
