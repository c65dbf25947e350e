"""Editing methods: one file each; the file's name is the recipe's `method` (`mace_cf.py` is
`mace-cf`).

A method is a module with

    Parameters   a frozen pydantic model of the recipe's tables that are its own
                 (``extra="forbid"``)
    edit(model, recipe, parameters, cache, observer) -> forgetcli.editing.edit.Edit
    work(recipe, parameters) -> forgetcli.pipeline.estimates.Work      optional: what the edit asks
    of the model, for ``--dry-run``
    SEARCH       optional: dotted parameter → range or choice (`forgetcli.editing.search_space`),
                 what ``forget tune`` may try

Third parties add one by an entry point in the group ``forgetcli.methods``. Importing a method must
not import torch:
recipes are checked without it.
"""

from __future__ import annotations

from types import ModuleType

from forgetcli import plugins

GROUP = "forgetcli.methods"


def names() -> list[str]:
    """Every method that a recipe can name, sorted."""
    return plugins.names(__name__, GROUP)


def get(name: str) -> ModuleType:
    """The method called `name`.

    Raises:
        ForgetError: there is none.
    """
    return plugins.find(__name__, GROUP, name, "recipe.unknown-method", "method")
