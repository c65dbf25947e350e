"""What the shell offers for the values of options.

Every command imports this module, so the modules that know the values are imported in functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def methods(incomplete: str) -> list[str]:
    """Editing methods."""
    from forgetcli import methods as all_methods

    return _beginning(incomplete, all_methods.names())


def method_list(incomplete: str) -> list[str]:
    """Methods after the last comma of a list, or all."""
    from forgetcli import methods as all_methods

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    names = [name for name in all_methods.names() if name not in taken]
    return [before + comma + name for name in _beginning(last, names if comma else ["all", *names])]


def judges(incomplete: str) -> list[str]:
    """Judges of images."""
    from forgetcli.evaluation import judges as all_judges

    return _beginning(incomplete, all_judges.names())


def features(incomplete: str) -> list[str]:
    """Feature extractors."""
    from forgetcli.evaluation import features as all_features

    return _beginning(incomplete, ["auto", "none", *all_features.names()])


def namings(incomplete: str) -> list[str]:
    """Naming schemes of a LoRA's keys."""
    return _beginning(incomplete, ["diffusers", "kohya"])


def models(incomplete: str) -> list[str]:
    """The embedded model, edited folders here, and models of the hub that forget knows."""
    from forgetcli.storage.atomic import MARKER
    from forgetcli.storage.hub import KNOWN

    here = sorted(file.parent.name for file in Path.cwd().glob(f"*/{MARKER}"))
    return _beginning(incomplete, ["demo", *here, *KNOWN])


def recipe_keys(incomplete: str) -> list[str]:
    """Keys of a recipe for ``--set``, with the equals sign; of lists, those of the first table."""
    import json

    from forgetcli.bundled.recipes import SCHEMA, folder

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
