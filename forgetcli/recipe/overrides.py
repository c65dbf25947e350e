"""Overrides of a recipe: ``--set KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tomli

from forgetcli.errors import ForgetError
from forgetcli.recipe import limits, toml_lines
from forgetcli.recipe import parameters as method_tables
from forgetcli.recipe.problems import clipped, in_words
from forgetcli.recipe.toml_lines import KeyPath

LONGEST_SHOWN = 200  # characters of an override in a message


def apply(
    data: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[KeyPath, str], list[ForgetError]]:
    """Change `data` by the overrides.

    Returns:
        the path of each changed value → its key as the user wrote it, and the faults of overrides.
    """
    keys_by_path: dict[KeyPath, str] = {}
    problems: list[ForgetError] = []
    for override in overrides:
        try:
            keys, value = _assignment(override)
            path = _assign(data, keys, value, override)
            keys_by_path[path] = override.partition("=")[0].strip()
            method_tables.hold_for_all_families(data, path)
        except ForgetError as error:
            problems.append(error)
    return keys_by_path, problems


def _assignment(override: str) -> tuple[tuple[str, ...], Any]:
    """The key and the value of an override: ``refine.steps=6`` gives (("refine", "steps"), 6)."""
    shown = repr(clipped(override, LONGEST_SHOWN))
    if len(override) > limits.LONGEST_OVERRIDE:
        raise ForgetError("recipe.set", f"--set {shown}: too long", "write it into the recipe")
    key, equals, value = override.partition("=")
    value = value.strip()
    try:
        limits.check_text(f"{key} = 0", f"--set {shown}")
        limits.check_text(value, f"--set {shown}")
        keys = toml_lines.split_key(key.strip())
    except ForgetError as error:
        raise ForgetError("recipe.set", error.message, error.hint) from error
    except (ValueError, tomli.TOMLDecodeError):
        keys = ()
    if not keys or not equals or "\n" in override or "\r" in override:
        raise ForgetError(
            "recipe.set",
            f"--set {shown}: not a key and a value",
            "write it as key=value: --set refine.steps=6",
        )
    try:
        return keys, tomli.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, or too many digits
        if value[:1] in ("", "[", "{", '"', "'"):
            raise ForgetError(
                "recipe.set",
                f"--set {shown}: the value is not TOML",
                'a list is [1, 2], a string a bare word or "quoted"',
            ) from error
        return keys, value  # a bare word is a string


def _assign(data: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> KeyPath:
    """Set the value at `keys` in `data` and return its path.

    Missing tables are created. Items of lists must exist.
    """
    container: Any = data
    path: KeyPath = ()
    shown = repr(clipped(override, LONGEST_SHOWN))
    for depth, name in enumerate(keys, start=1):
        key: str | int = name
        if isinstance(container, list):
            is_index = name.isascii() and name.isdecimal() and len(name) < 10
            if not is_index or int(name) >= len(container):
                raise ForgetError(
                    "recipe.set",
                    f"--set {shown}: {in_words(path)} has no item '{clipped(name)}'",
                    f"it has {len(container)}, counted from 0",
                )
            key = int(name)
        elif not isinstance(container, dict):
            raise ForgetError(
                "recipe.set", f"--set {shown}: {in_words(path)} is neither a table nor a list"
            )
        path += (key,)
        if depth == len(keys):
            container[key] = value
        elif isinstance(container, dict):
            container = container.setdefault(key, {})
        else:
            container = container[key]
    return path
