"""What the shell offers for the values of options, by the names that `completion.suggest` takes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forgetcli import methods as all_methods
from forgetcli.bundled.recipes import SCHEMA, bundled, folder
from forgetcli.storage.atomic import MARKER
from forgetcli.storage.hub import KNOWN


def methods(incomplete: str) -> list[str]:
    """Editing methods."""
    return _beginning(incomplete, all_methods.names())


def method_list(incomplete: str) -> list[str]:
    """Methods after the last comma of a list, or all."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    names = [name for name in all_methods.names() if name not in taken]
    return [before + comma + name for name in _beginning(last, names if comma else ["all", *names])]


def judges(incomplete: str) -> list[str]:
    """Judges of images."""
    return _beginning(incomplete, _measuring("judges"))


def features(incomplete: str) -> list[str]:
    """Feature extractors."""
    return _beginning(incomplete, ["auto", "none", *_measuring("features")])


def _measuring(kind: str) -> list[str]:
    # Imported here: loads pydantic, which the other values do without.
    return importlib.import_module(f"forgetcli.evaluation.{kind}").names()


def namings(incomplete: str) -> list[str]:
    """Naming schemes of a LoRA's keys."""
    return _beginning(incomplete, ["diffusers", "kohya"])


def models(incomplete: str) -> list[str]:
    """The embedded model, edited folders here, and models of the hub that forget knows."""
    here = sorted(file.parent.name for file in Path.cwd().glob(f"*/{MARKER}"))
    return _beginning(incomplete, ["demo", *here, *KNOWN])


def recipes(incomplete: str) -> list[str]:
    """Bundled recipes."""
    return _beginning(incomplete, bundled())


def recipe_keys(incomplete: str) -> list[str]:
    """Keys of a recipe for ``--set``, with the equals sign; of lists, those of the first table."""
    schema = json.loads((folder() / SCHEMA).read_text(encoding="utf-8"))
    return _beginning(incomplete, sorted(f"{key}=" for key in set(_keys(schema))))


def _keys(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, value in schema["properties"].items():
        if name in ("methods", "families"):
            continue
        inner = value.get("items", value)
        tables = [
            schema["$defs"][each["$ref"].rpartition("/")[2]]
            for each in (inner, *inner.get("anyOf", ()))
            if "$ref" in each
        ]
        if not tables:
            yield name
        place = f"{name}.0" if value.get("type") == "array" else name
        for table in tables:
            yield from (f"{place}.{key}" for key in table["properties"])


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
