"""Editing methods: one file each; the file's name is the recipe's `method`.

A method is a module with

    Parameters   a frozen pydantic model of the recipe's tables that are its own (``extra="forbid"``)
    edit(model, recipe, parameters, cache, observer) -> forgetcli.edits.Edit

Third parties add one by an entry point in the group ``forgetcli.methods``. Importing a method must not import torch:
recipes are checked without it.
"""
from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from forgetcli.errors import ForgetError


@cache
def _found() -> dict[str, object]:
    local = {m.name.replace("_", "-"): m.name for m in pkgutil.iter_modules(__path__)}
    return {**{p.name: p for p in entry_points(group="forgetcli.methods")}, **local}


def names() -> list[str]:
    """Every method that a recipe can name, sorted."""
    return sorted(_found())


def get(name: str) -> ModuleType:
    """The method called `name`.

    Raises:
        ForgetError: there is none.
    """
    found = _found().get(name)
    if found is None:
        raise ForgetError("recipe.unknown-method", f"there is no method '{name}'", f"there are: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{found}") if isinstance(found, str) else found.load()
