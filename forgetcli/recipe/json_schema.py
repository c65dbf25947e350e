"""The JSON Schema of recipes. Committed as recipes/recipe.schema.json; ``forget recipe schema``
prints it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from forgetcli import methods
from forgetcli.models import families
from forgetcli.recipe.model import Document


def build() -> dict[str, Any]:
    """Draft 2020-12 schema: a recipe's own keys, the tables of every installed method, and the same
    in [methods.NAME].
    """
    names = methods.names()
    own = {name: methods.get(name).Parameters for name in names}
    described: list[type[BaseModel]] = list(
        dict.fromkeys((Document, *own.values()))
    )  # methods can share a model
    # one call for all models: names of definitions that collide are told apart
    references, definitions = models_json_schema(
        [(model, "validation") for model in described], ref_template="#/$defs/{model}"
    )
    parts = {
        model: definitions["$defs"].pop(references[model, "validation"]["$ref"].rpartition("/")[2])
        for model in described
    }
    document = parts.pop(Document)
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in parts.values():
        for table, description in part["properties"].items():
            if description not in tables.setdefault(table, []):
                tables[table].append(description)
    properties = dict(document["properties"])
    properties["method"] = {**properties["method"], "enum": names}
    properties["methods"] = {
        "description": properties["methods"]["description"],
        "type": "object",
        "additionalProperties": False,
        "properties": {name: parts[model] for name, model in own.items()},
    }
    of_methods = {
        table: kinds[0] if len(kinds) == 1 else {"anyOf": kinds} for table, kinds in tables.items()
    }
    family = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**of_methods, "methods": properties["methods"]},
    }
    properties["families"] = {
        "description": properties["families"]["description"],
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"$ref": "#/$defs/Family"} for name in families.names()},
    }
    properties |= of_methods
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of forget",
        "type": "object",
        "additionalProperties": False,
        "required": document["required"],
        "properties": properties,
        "$defs": {**definitions["$defs"], "Family": family},
    }


def text() -> str:
    """The schema as the file that is committed."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
