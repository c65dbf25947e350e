"""Whether method and parameters, as recorded, are those that the recipe gives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetcli import __version__, methods, models
from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import problem
from forgetcli.artifact.manifest import MANIFEST, RECIPE, Manifest
from forgetcli.errors import ForgetError
from forgetcli.recipe import Recipe
from forgetcli.verification.differences import differences, flat, method_parameters
from forgetcli.verification.finding import Finding


def parameters(edited: EditedModel, *, strict: bool = False) -> Finding:
    """Whether the manifest's method and parameters are those of the recipe in the folder.

    Args:
        strict: defaults count too, whatever version of forget has recorded them.
    """
    manifest = edited.manifest
    try:
        recipe = read_recipe(edited, edited.recipe_bytes, manifest.recipe_path)
    except OSError:
        return Finding()  # a problem already: the manifest lists the file
    except ForgetError as fault:
        if fault.code == "recipe.unknown-method":
            missing = f"that the parameters are those of the recipe: {fault.message}"
            return Finding(not_proved=[missing])
        return Finding([problem(RECIPE, f"cannot be read: {fault.message}")])
    wrong = differing(manifest.method, manifest.parameters, recipe, strict or is_ours(manifest))
    if wrong:
        return Finding([problem(MANIFEST, what) for what in wrong])
    if strict or is_ours(manifest):
        return Finding(proved=["method and parameters are those of the recipe"])
    missing = (
        "that the parameters which the recipe does not name have the defaults of the version of "
        "forget that made it: this is another version"
    )
    return Finding(not_proved=[missing])


def as_recorded(
    method: str, recorded: Mapping[str, Any], recipe: Recipe
) -> tuple[dict[str, Any], Recipe]:
    """The recorded parameters and the recipe, with the values that held when the folder was made.

    A folder of an earlier version does not record parameters that were added later. Where neither
    it nor the recipe has one, both get the value that `forgetcli.methods` documents as `EARLIER`.
    """
    earlier = getattr(methods.get(method), "EARLIER", {}) if method == recipe.method else {}
    complete, written = copy.deepcopy(dict(recorded)), copy.deepcopy(recipe.parameters)
    for key, value in earlier.items():
        table, _, name = key.partition(".")
        there, here = complete.setdefault(table, {}), written.setdefault(table, {})
        if isinstance(there, dict) and isinstance(here, dict) and name not in (*there, *here):
            there[name] = here[name] = value
    return complete, recipe.model_copy(update={"parameters": written})


def read_recipe(edited: EditedModel, text: str | bytes, source: Path | None = None) -> Recipe:
    """A recipe as it is for the model in the folder.

    Raises:
        RecipeError: it cannot be read.
    """
    recipe = recipes.parse(text, source)
    if not recipe.families:
        return recipe
    try:
        return recipe.on(models.family_of(edited.settings))
    except (ForgetError, OSError, ValueError, KeyError, TypeError):
        return recipe  # a model of no known family has none of the families' tables


def is_ours(manifest: Manifest) -> bool:
    """Whether this version of forget made the folder: then the defaults are the same."""
    version = manifest.run_details.get("builder", {}).get("version")
    return isinstance(version, dict) and version.get("forgetcli") == __version__


def differing(
    method: str, recorded: Mapping[str, Any], recipe: Recipe, strict: bool, place: str = MANIFEST
) -> list[str]:
    """Each value that is recorded and not the recipe's, or the other way round, in words.

    Args:
        strict: compare the values that the recipe leaves to the method's defaults as well.
        place: the file that has the recorded values.
    """
    explicit = {"method", *flat(recipe.parameters)}
    recorded, recipe = as_recorded(method, recorded, recipe)
    by_recipe = flat({"method": recipe.method, **method_parameters(recipe)})
    return [
        f"{key} is {here} in {place}, {there} by the recipe"
        for key, here, there in differences(flat({"method": method, **recorded}), by_recipe)
        if strict or key in explicit
    ]
