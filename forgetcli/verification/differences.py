"""Two recipes compared, value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import problem
from forgetcli.artifact.manifest import RECIPE
from forgetcli.errors import ForgetError
from forgetcli.verification.finding import Finding

if TYPE_CHECKING:
    from forgetcli.recipe import Recipe

SHORT_LIST_CHARACTERS = 60  # a list that is no longer than this is shown in full


def same_recipe(edited: EditedModel, recipe: Recipe) -> Finding:
    """Whether the folder was made by exactly this recipe, byte for byte.

    If not, every value that differs is a problem. Of two lists only the entries that the other one
    lacks are named.
    """
    manifest = edited.manifest
    try:
        bytes_there = edited.recipe_bytes
    except OSError as fault:
        return Finding([problem(RECIPE, f"cannot be read: {fault.strerror or fault}")])
    if bytes_there == recipe.raw and manifest.recipe_sha256 == recipe.sha256:
        claim = (
            f"it was made by the recipe {recipe.source}, byte for byte "
            f"(SHA-256 {recipe.sha256[:12]}…)"
        )
        return Finding(proved=[claim])
    try:
        there = recipes.parse(bytes_there, manifest.recipe_path)
    except ForgetError as fault:
        what = f"is not {recipe.source}, and cannot be read: {fault.message}"
        return Finding([problem(RECIPE, what)])
    differing = [
        problem(RECIPE, f"is not {recipe.source}: {key} is {here} there, {other} in that")
        for key, here, other in differences(recipe_values(there), recipe_values(recipe))
    ]
    if differing:
        return Finding(differing)
    what = (
        f"is not {recipe.source}: other bytes (comments, spacing), though every value is the same"
    )
    return Finding([problem(RECIPE, what)])


def method_parameters(recipe: Recipe) -> dict[str, Any]:
    """The parameters of a recipe's method, defaults filled in, as JSON types."""
    schema = methods.get(recipe.method).Parameters
    return schema.model_validate(recipe.parameters).model_dump(mode="json")


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe, dotted key → value, its method's defaults filled in."""
    excluded = {
        "raw",
        "source",
        "overrides",
        "warnings",
        "parameters",
        "methods",
        "name",
        "description",
    }
    whole = recipe.model_dump(mode="json", exclude=excluded)
    return flat({**whole, **method_parameters(recipe)})


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → value; lists of plain values stay whole."""
    return dict(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    inside: Any = None
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        inside = enumerate(value)
    if inside is None:
        yield path, value
        return
    for key, part in inside:
        yield from _leaves(part, f"{path}.{key}" if path else str(key))


def differences(
    here: Mapping[str, Any], there: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """(key, value here, value there) of every key whose values differ, the values as text."""
    for key in [*here, *(key for key in there if key not in here)]:
        if here.get(key) != there.get(key):
            yield key, _side(key, here, there), _side(key, there, here)


def _side(key: str, side: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return _shortened(side[key], other.get(key)) if key in side else "absent"


def _shortened(value: Any, other: Any) -> str:
    """A value as short text.

    A long list is shown by the first entry that the other one lacks, and the number of such
    entries.
    """
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list) or len(text) <= SHORT_LIST_CHARACTERS:
        return text
    alone = [entry for entry in value if not isinstance(other, list) or entry not in other]
    first = json.dumps(alone[0] if alone else value[0], ensure_ascii=False)
    if len(alone) > 1:
        return f"[{first} and {len(alone) - 1} more that differ, of {len(value)}]"
    return f"[{first}, … {len(value)} in all]"
