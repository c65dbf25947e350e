"""Recipes as text: the starter of ``forget recipe init``, and a checked recipe written in full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetcli import methods
from forgetcli.bundled.demo import FOLDER
from forgetcli.errors import OutputError
from forgetcli.recipe.model import Document, Recipe
from forgetcli.storage import atomic

STARTER = (FOLDER / "starter.toml").read_text(encoding="utf-8")


def write_starter(path: Path, *, force: bool = False) -> None:
    """Write `STARTER` at `path`, whole or not at all.

    Raises:
        OutputError: it exists and `force` is not set, or it cannot be written.
    """
    if path.is_dir() or (path.exists() and not force):
        raise OutputError(
            "output.exists",
            f"{path} exists already",
            "choose another name" + ("" if path.is_dir() else ", or use --force"),
        )
    atomic.write_atomically(path, STARTER.encode())


def effective(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, those of its methods too; JSON types only."""
    own = recipe.model_dump(mode="json", include=set(Document.model_fields))
    own["methods"] = {name: _filled(name, tables) for name, tables in recipe.methods.items()}
    return {**own, **_filled(recipe.method, recipe.parameters)}


def _filled(method: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    return methods.get(method).Parameters.model_validate(tables).model_dump(mode="json")


def to_toml(recipe: Recipe) -> str:
    """`effective` as a recipe file that is read the same way, followed by the edit pairs as
    comments.
    """
    values = effective(recipe)
    prompts = [*recipe.preserve.prompts, *recipe.file_prompts]
    values["preserve"] = {**values["preserve"], "prompts": prompts, "files": []}
    # The tables of the evaluation file are among the values.
    values["evaluation"] = None
    for table in ("methods", "families"):
        if not values[table]:
            del values[table]
    # Imported here: only a recipe that is written needs it, not one that is checked.
    import tomlkit

    pairs = [f"# {_quoted(prompt)} -> {_quoted(target)}" for prompt, target in recipe.edit_pairs()]
    table = tomlkit.dumps(_without_none(values))
    return "\n".join([table, f"# {len(pairs)} edit pairs:", *pairs, ""])


def _without_none(value: Any) -> Any:
    """`value` without keys whose value is None: TOML has no form for it, and absence means it."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _quoted(prompt: str) -> str:
    """A prompt for a comment, which must be one line."""
    return json.dumps(prompt, ensure_ascii=False).replace("\x7f", "\\u007f")
