"""Modules found by name: a file in a package of ours, or a third party's entry point. Ours cannot be replaced."""
from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import ModuleType

from forgetcli.errors import ForgetError


def names(package: ModuleType) -> list[str]:
    """Every module of `package`, and every entry point of the group that has its name, sorted."""
    return sorted({*_local(package), *(p.name for p in entry_points(group=package.__name__))})


def find(package: ModuleType, name: str, code: str, what: str) -> ModuleType:
    """The module called `name`.

    Args:
        code, what: of the error: ``judge.unknown``, "judge".
    Raises:
        ForgetError: there is none.
    """
    if name in _local(package):
        return importlib.import_module(f"{package.__name__}.{name}")
    for point in entry_points(group=package.__name__):
        if point.name == name:
            return point.load()
    near = get_close_matches(name, names(package), 1)
    raise ForgetError(code, f"there is no {what} '{name}'",
                      f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names(package))}")


def _local(package: ModuleType) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(package.__path__)}
