"""A recipe with searched values: loaded for a trial, and written with the best values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli
import tomlkit
from tomlkit.container import Container
from tomlkit.items import Table

from forgetcli import recipe as recipes
from forgetcli.experiments.tuning.results import Trial
from forgetcli.recipe import Recipe, parameters, usage
from forgetcli.storage import atomic

HEAD = (
    "# Parameters of {method} found by `forget tune` on this recipe's own evaluation prompts "
    "(H {h:.3f} there).\n"
    "# The best of many trials is an optimist: measure it on other prompts and concepts.\n"
)


@dataclass(frozen=True)
class RecipeSource:
    """A recipe as given on the command line.

    Attributes:
        source: a recipe file, or the name of a bundled recipe.
        overrides: values of ``--set``.
        method: replaces the recipe's own method; None: the recipe's own.
    """

    source: str | Path
    overrides: tuple[str, ...] = ()
    method: str | None = None

    def load(self, more_overrides: Sequence[str] = ()) -> Recipe:
        """Load the recipe with additional overrides."""
        return recipes.load(self.source, [*self.overrides, *more_overrides], self.method)


def trial_overrides(recipe: Recipe, method: str | None, values: Mapping[str, Any]) -> list[str]:
    """A trial's values in the syntax of ``--set``.

    They set keys of the recipe's own tables, or of ``[methods.NAME]`` if the recipe is used with a
    method other than its own.
    """
    prefix = ""
    if method is not None and written_method(recipe) != recipe.method:
        prefix = f"methods.{recipe.method}."
    return [f"{prefix}{key}={_toml_value(value)}" for key, value in values.items()]


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def written_method(recipe: Recipe) -> str:
    """The method in the recipe's own text, even if the recipe is used with another method."""
    body, _ = usage.split(recipe.raw.decode())
    return tomli.loads(body).get("method", "nullspace")


def write_recipe(path: Path, recipe: Recipe, best: Trial) -> None:
    """Write the recipe's text with the best trial's values. Its comments and order do not change.

    As in every used recipe, values from ``--set`` are recorded at the end of the text, except those
    that the search replaced.
    """
    body, recorded = usage.split(recipe.raw.decode())
    document = tomlkit.parse(body)
    parent_tables: tuple[str, ...] = ()
    if written_method(recipe) != recipe.method:
        parent_tables = ("methods", recipe.method)
    _put_values(document, parent_tables, best.parameters)
    head = HEAD.format(method=recipe.method, h=best.h)
    remaining = _without(recorded.overrides, f"methods.{recipe.method}.", best.parameters)
    record = replace(recorded, overrides=remaining, method=None)
    atomic.write_atomically(path, usage.join(head + tomlkit.dumps(document), record).encode())


def _put_values(
    document: tomlkit.TOMLDocument, parent_tables: tuple[str, ...], values: Mapping[str, Any]
) -> None:
    """Set dotted parameters in the tables below `parent_tables`, for all model families."""
    parent: Container | Table = document
    for name in parent_tables:
        parent = parent.setdefault(name, tomlkit.table(is_super_table=name == "methods"))
    for key, value in values.items():
        *tables, name = key.split(".")
        table = parent
        for table_name in tables:
            table = table.setdefault(table_name, tomlkit.table())
        table[name] = value
        # As in the trials, where ``--set`` sets the value for all families.
        parameters.hold_for_all_families(document, (*parent_tables, *tables, name))


def _without(recorded: Sequence[str], prefix: str, replaced: Mapping[str, Any]) -> tuple[str, ...]:
    """The recorded overrides whose parameter is not in `replaced`."""
    return tuple(
        override
        for override in recorded
        if override.partition("=")[0].strip().removeprefix(prefix) not in replaced
    )
