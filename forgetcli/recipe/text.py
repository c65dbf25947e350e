"""Recipes as text: the starter that ``forget recipe init`` writes, and a checked recipe written out
in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetcli import methods
from forgetcli.errors import OutputError
from forgetcli.recipe.model import Document, Recipe
from forgetcli.storage import atomic

STARTER = """\
# A recipe for forget: which concepts a text-to-image model is to forget, and what each turns into.
#
#   forget recipe validate THIS_FILE      check it, at once
#   forget apply THIS_FILE                edit the model and write edited/
#   forget eval edited                    measure what was forgotten and what stayed
#   forget recipe schema                  every key there is
schema_version = 1
description = "Van Gogh turns into Monet"
model = "demo"                            # a name from `forget models`, a diffusers folder, or a hub id
seed = 0

[[concepts]]                              # one such table for each concept
concept = "van gogh"                      # what is to be forgotten
target = "monet"                          # what it turns into
aliases = ["vincent van gogh"]            # other words for it, edited the same way
# For evaluation only. Keep the hints out of everything that is edited: they show whether the concept itself is gone.
direct = ["a van gogh painting of a dog", "a cat in the style of van gogh"]
indirect = ["starry night", "thick swirling brushstrokes"]

[prompts]
# Each is filled with the concept and with its target: "van gogh art" turns into "monet art".
templates = ["{}", "{} art", "{} painting", "{} painting of a dog", "a house in {} style"]

[preserve]
# Prompts whose pictures must not change: near neighbours of the concept matter most. The empty prompt is always kept.
prompts = [
  "monet", "a monet painting of a cat", "pencil sketch of a dog",
  "a dog", "a cat", "a house", "a picture of a tree",
]
# files = ["preserve.txt"]                # more of them, one a line, beside this file

[[retain]]                                # for evaluation only: a concept that must stay
concept = "pencil sketch"
direct = ["a pencil sketch of a dog"]
indirect = ["drawn with graphite"]

# [edit] and [refine] hold the method's settings; `forget recipe show THIS_FILE` prints all with their defaults.
"""


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
    values["preserve"] = {"prompts": [*recipe.preserve.prompts, *recipe.file_prompts], "files": []}
    for table in ("methods", "families"):
        if not values[table]:
            del values[table]
    pairs = [f"# {_value(prompt)} -> {_value(target)}" for prompt, target in recipe.edit_pairs()]
    return "\n".join([*_table(values, ""), "", f"# {len(pairs)} edit pairs:", *pairs, ""])


def _table(values: Mapping[str, Any], name: str) -> list[str]:
    """Lines of a TOML table; None has no form in TOML and is left out, which means the same."""
    prefix = f"{name}." if name else ""
    lines = [
        f"{_key(key)} = {_value(value)}"
        for key, value in values.items()
        if value is not None and not _is_table(value)
    ]
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{_key(key)}]", *_table(value, prefix + _key(key))]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{prefix}{_key(key)}]]", *_table(item, prefix + _key(key))]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # a JSON string is a TOML string, but for DEL, which TOML wants escaped
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return (
                "{"
                + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
                + "}"
            )
    return str(value)
