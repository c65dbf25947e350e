"""Editing methods: one package each; its name is the recipe's `method` (`mace_cf` is `mace-cf`).

A method is a package with

    Parameters               a frozen pydantic model of the recipe tables that belong to the method
                             (``extra="forbid"``)
    SEARCH                   optional: dotted parameter → range or choice
                             (`forgetcli.editing.search_space`) that ``forget tune`` may try
    EARLIER                  optional: dotted parameter → its value in edited folders that do not
                             record it: what held before the parameter existed
    cost(task, parameters)   optional: returns a `forgetcli.editing.cost.Cost`, what the edit asks
                             of the model, for ``--dry-run``

and, in its module ``edit``, the algorithm

    edit(model, task, parameters, observer) -> forgetcli.editing.edit.Edit

with `task` a `forgetcli.editing.task.Task`. The package itself must not import torch: recipes are
checked without it. `load_edit` imports the algorithm when it is needed.

Third parties add a method by an entry point in the group ``forgetcli.methods``. It names a module
with the same contents; instead of a module ``edit`` it may have the function ``edit`` itself, or a
function ``load_edit()`` that returns it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from forgetcli import plugins
from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit

GROUP = "forgetcli.methods"


def names() -> list[str]:
    """Every method that a recipe can name, sorted."""
    return plugins.names(__name__, GROUP)


def get(name: str) -> ModuleType:
    """The method called `name`, without its algorithm.

    Raises:
        ForgetError: there is none.
    """
    return plugins.find(__name__, GROUP, name, "recipe.unknown-method", "method")


def load_edit(name: str) -> Callable[..., Edit]:
    """The algorithm of the method called `name`: ``edit(model, task, parameters, observer)``.

    Raises:
        ForgetError: there is no such method, or a third party's cannot be loaded.
    """
    method = get(name)
    if method.__name__.startswith(f"{__name__}."):
        return importlib.import_module(f"{method.__name__}.edit").edit
    try:
        return _third_party_edit(method)
    except Exception as error:  # third-party code may raise anything
        raise ForgetError(
            "plugin.broken",
            f"the method '{name}' ({method.__name__}) cannot be loaded: "
            f"{type(error).__name__}: {error}",
            "update or uninstall the package that it comes from",
        ) from error


def _third_party_edit(method: Any) -> Callable[..., Edit]:
    if hasattr(method, "load_edit"):
        return method.load_edit()
    if callable(getattr(method, "edit", None)):
        return method.edit
    return importlib.import_module(f"{method.__name__}.edit").edit
