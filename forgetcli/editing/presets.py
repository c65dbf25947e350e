"""Presets: values for a method's tables under one name. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def filled(tables: Any, table: str, presets: Mapping[str, Mapping[str, Any]]) -> Any:
    """The tables of a method with the values of the chosen preset where they have none themselves.

    Args:
        tables: as written, not yet checked.
        table: the one whose key `preset` names the preset.
        presets: name → table → key → value.
    """
    chosen = tables.get(table) if isinstance(tables, dict) else None
    name = chosen.get("preset") if isinstance(chosen, dict) else None
    values = presets.get(name) if isinstance(name, str) else None
    if values is None:
        return tables
    whole = dict(tables)
    for key, defaults in values.items():
        own = tables.get(key, {})
        if isinstance(own, dict):
            whole[key] = {**defaults, **own}
    return whole
