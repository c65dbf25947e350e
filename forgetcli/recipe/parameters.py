"""The tables of a recipe that belong to methods: its own method's, those in [methods.NAME], and
those for a family of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from forgetcli import methods
from forgetcli.errors import ForgetError
from forgetcli.models import families as model_families
from forgetcli.recipe.model import Document
from forgetcli.recipe.problems import (
    MOST_FAULTS,
    Sheet,
    did_you_mean,
    faults_of,
    in_words,
    unknown_key,
)
from forgetcli.recipe.toml_lines import KeyPath

Place = TypeVar("Place")


def faults(method: object, parameters: Mapping[str, Any], sheet: Sheet) -> list[ForgetError]:
    """Faults in the tables that belong to the method."""
    if not isinstance(method, str):
        # The wrong type is already a fault of the document.
        return []
    try:
        model = _method(method, sheet).Parameters
    except ForgetError as error:
        # The method is unknown, but everything that belongs to a method is a table.
        keys = [key for key, value in parameters.items() if not isinstance(value, dict)]
        unknown = [unknown_key((key,), sheet, Document.model_fields) for key in keys[:MOST_FAULTS]]
        return [error, *unknown]
    return faults_of(model, parameters, sheet, more_keys=Document.model_fields)


def faults_of_others(tables: object, sheet: Sheet, above: KeyPath) -> list[ForgetError]:
    """Faults in ``[methods.NAME]``, the parameters of other methods; `above` is the table that
    holds them.
    """
    faults: list[ForgetError] = []
    for name, parameters in tables.items() if isinstance(tables, Mapping) else ():
        if len(faults) > MOST_FAULTS:
            break
        path = (*above, name)
        if not isinstance(parameters, Mapping):
            # of the recipe's own ones it is told with the document's faults
            faults += (
                [sheet.problem("type", path, f"{in_words(path)} must be a table")]
                if len(above) > 1
                else []
            )
            continue
        try:
            faults += faults_of(
                _method(name, sheet, path).Parameters, parameters, _inside(sheet, path, parameters)
            )
        except ForgetError as error:
            faults.append(error)
    return faults


def faults_of_families(tables: object, method: object, sheet: Sheet) -> list[ForgetError]:
    """Faults in ``[families.NAME]``: the method's tables, and those of others in its ``methods``,
    for models of a family.
    """
    faults: list[ForgetError] = []
    for name, own in tables.items() if isinstance(tables, Mapping) else ():
        if len(faults) > MOST_FAULTS:
            break
        path = ("families", name)
        if name not in model_families.names():
            hint = did_you_mean(name, model_families.names())
            faults.append(
                sheet.problem("unknown-family", path, f"there is no family '{name}'", hint)
            )
        elif isinstance(own, Mapping):
            if (
                isinstance(method, str) and method in methods.names()
            ):  # if not, that is told already
                model, parameters = methods.get(method).Parameters, own_tables(own)
                faults += faults_of(
                    model, parameters, _inside(sheet, path, parameters), more_keys=("methods",)
                )
            others = own.get("methods", {})
            if not isinstance(others, Mapping):
                faults.append(
                    sheet.problem(
                        "type",
                        (*path, "methods"),
                        f"{in_words((*path, 'methods'))} must be a table",
                    )
                )
            faults += faults_of_others(others, sheet, (*path, "methods"))
    return faults


def own_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of ``[families.NAME]`` that belong to the recipe's own method."""
    return {key: value for key, value in tables.items() if key != "methods"}


def _inside(sheet: Sheet, path: KeyPath, tables: Mapping[str, Any]) -> Sheet:
    """The sheet of the tables at `path`."""
    return Sheet(
        name=sheet.name,
        data=tables,
        lines=_below(sheet.lines, path),
        overrides=_below(sheet.overrides, path),
    )


def _below(places: Mapping[KeyPath, Place], path: KeyPath) -> dict[KeyPath, Place]:
    """The places of keys below `path`, with their paths from there."""
    depth = len(path)
    return {
        key[depth:]: place
        for key, place in places.items()
        if key[:depth] == path and len(key) > depth
    }


def _method(name: str, sheet: Sheet, path: KeyPath = ("method",)) -> ModuleType:
    try:
        return methods.get(name)
    except ForgetError as error:
        if error.code != "recipe.unknown-method":
            raise
    raise sheet.problem(
        "unknown-method", path, f"there is no method '{name}'", did_you_mean(name, methods.names())
    )


def hold_for_all_families(data: dict[str, Any], path: KeyPath) -> None:
    """What the command line says, or a search has found, goes before what the recipe says for a
    family.
    """
    families = data.get("families")
    for holder in families.values() if isinstance(families, dict) else ():
        for key in path[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
