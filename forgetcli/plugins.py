"""Modules found by name: a file in a package of ours, or a third party's entry point. Ours cannot
be replaced.

A kind of plug-in has a package, where ours lie, and an entry-point group, where third parties add
theirs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pydantic import BaseModel

Options = TypeVar("Options", bound="BaseModel")


def names(package: str, group: str) -> list[str]:
    """Every module of `package`, and every entry point of `group`, sorted."""
    return sorted({*_local(package), *(p.name for p in entry_points(group=group))})


def find(package: str, group: str, name: str, code: str, what: str) -> ModuleType:
    """The module called `name`.

    Args:
        package: dotted name of the package that holds ours.
        group: entry-point group of third parties' modules.
        code, what: of the error: ``judge.unknown``, "judge".
    Raises:
        ForgetError: there is none, or it is a third party's and cannot be loaded.
    """
    local = _local(package)
    if name in local:
        return importlib.import_module(f"{package}.{local[name]}")
    for point in entry_points(group=group):
        if point.name == name:
            return _load(point, what)
    near = get_close_matches(name, names(package, group), 1)
    raise ForgetError(
        code,
        f"there is no {what} '{name}'",
        f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names(package, group))}",
    )


def validated_options(
    kind: str,
    name: str,
    schema: type[Options],
    options: Mapping[str, object],
    code_prefix: str,
) -> Options:
    """The settings of a plug-in, checked against its schema.

    Args:
        kind: of the plug-in, for the message: "judge".
        name: the plug-in's name.
        schema: the plug-in's `Options`.
        options: as the user gave them; strings are converted to the types of the schema.
        code_prefix: of the error: ``judge``.
    Raises:
        ForgetError: PREFIX.unknown-option, PREFIX.bad-option.
    """
    # The command line starts without pydantic.
    from pydantic import ValidationError

    try:
        return schema.model_validate(options)
    except ValidationError as invalid:
        error = invalid.errors()[0]
    key = ".".join(str(part) for part in error["loc"])
    known = sorted(schema.model_fields)
    hint = f"its settings: {', '.join(known) or 'none'}"
    if error["type"] != "extra_forbidden":
        raise ForgetError(
            f"{code_prefix}.bad-option", f"{kind} '{name}': {key}: {error['msg']}", hint
        )
    near = get_close_matches(key, known, 1)
    raise ForgetError(
        f"{code_prefix}.unknown-option",
        f"{kind} '{name}' has no setting '{key}'",
        f"did you mean '{near[0]}'?" if near else hint,
    )


def entry_points(group: str) -> Iterable[EntryPoint]:
    """The entry points of a group of all installed distributions."""
    # Imported here: it takes longer than all else here, and our own plug-ins are found without.
    from importlib.metadata import entry_points

    return entry_points(group=group)


def _load(point: EntryPoint, what: str) -> ModuleType:
    try:
        return point.load()
    except Exception as error:  # code of a third party: any exception is possible
        raise ForgetError(
            "plugin.broken",
            f"the {what} '{point.name}' ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}",
            "update or uninstall the package that it comes from",
        ) from error


def _local(package: str) -> dict[str, str]:
    """Name → module. Modules whose names begin with an underscore are shared code, not plug-ins."""
    found = (
        module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    )
    return {name.replace("_", "-"): name for name in found if not name.startswith("_")}
