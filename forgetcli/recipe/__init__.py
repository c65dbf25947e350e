"""Recipes: concepts to forget, their targets, and what must not change. Checked without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from forgetcli.bundled import recipes as bundled_recipes
from forgetcli.bundled.recipes import bundled
from forgetcli.errors import ForgetError, ModelError, RecipeError
from forgetcli.recipe import evaluation_file, limits, preserved_prompts, toml_lines, toml_text
from forgetcli.recipe import parameters as method_tables
from forgetcli.recipe import usage as records
from forgetcli.recipe.consistency import contradictions, doubts, unjudged
from forgetcli.recipe.model import Concept, Document, Preserve, Prompts, Recipe, Retained, once
from forgetcli.recipe.overrides import apply as apply_overrides
from forgetcli.recipe.problems import (
    MOST_FAULTS,
    Sheet,
    clipped,
    did_you_mean,
    faults_of,
    without_unknown_keys,
)
from forgetcli.storage.files import is_pipe, read_pipe, read_regular

__all__ = [
    "Concept",
    "Preserve",
    "Prompts",
    "Recipe",
    "Retained",
    "bundled",
    "load",
    "parse",
    "schema",
]

UNNAMED = "recipe"
LONGEST_MESSAGE = 1000  # characters


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    method: str | None = None,
    *,
    pipe: bool = False,
) -> Recipe:
    """Load a recipe from a file, or a bundled recipe by its name (``art_styles``).

    Args:
        overrides: ``key=value`` as for ``--set``: a dotted key (``concepts.0.target``), and a TOML
            value or a bare word.
        method: use this method instead, with the recipe's parameters in ``[methods.NAME]``.
        pipe: also read a pipe, because the user named it on the command line. Its prompt files are
            searched for in the current folder.
    Raises:
        RecipeError: with all faults of the recipe.
    """
    path = Path(path)
    source = path if path.exists() else bundled_recipes.find(path) or path
    try:
        piped = pipe and is_pipe(source)
        raw = (read_pipe if piped else read_regular)(source, limits.LARGEST_FILE)
    except ModelError as error:
        code = "recipe.not-found" if error.code == "file.not-regular" else error.code
        fault = ForgetError(code, error.message, "give the recipe's file")
        raise RecipeError([fault]) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            reason = "there is no such recipe"
            hint = did_you_mean(path.stem, bundled(), "forget recipe ls")
        else:
            reason = error.strerror or str(error)
            hint = "give the recipe's file"
        raise RecipeError([ForgetError("recipe.not-found", f"{path}: {reason}", hint)]) from error
    return parse(raw, None if piped else source, overrides, method)


def parse(
    text: str | bytes,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    method: str | None = None,
) -> Recipe:
    """Parse a recipe.

    Args:
        source: the recipe's file. Messages name it, and prompt files are searched for beside it.
        overrides, method: as for `load`.
    Raises:
        RecipeError: with all faults of the recipe.
    """
    name = str(source or UNNAMED)
    body, record, data = _read(text, name)
    overridden, problems = apply_overrides(data, (*record.overrides, *overrides))
    sheet = Sheet(name, data, toml_lines.key_lines(body.removeprefix(toml_text.BOM)), overridden)
    # The other checks recurse, compare and quote, so values that are too deep or too long for them
    # end the checks here.
    if unusable := list(islice(limits.faults_of_values(data, sheet), MOST_FAULTS + 1)):
        raise _refused([*problems, *unusable])

    tables = {key: value for key, value in data.items() if key in Document.model_fields}
    parameters = {key: value for key, value in data.items() if key not in tables}
    faults = faults_of(Document, tables, sheet)
    problems += [*faults, *_method_faults(data, parameters, sheet)]
    document = _document_apart_from(faults, tables)
    if document is not None:
        problems += limits.faults_of_size(document, sheet)
    if document is None or (problems and problems[-1].code == "recipe.too-long"):
        raise _refused(problems)
    method = method or record.method
    if method is not None:
        problems += method_tables.faults(method, {}, Sheet("--method"))
        if method != document.method:
            parameters = document.methods.get(method, {})
    preserved, files, missing = preserved_prompts.preserved(document, record, sheet, source)
    captions, caption_files, absent = preserved_prompts.from_files(
        "captions", document, record, sheet, source
    )
    files |= caption_files
    merged = evaluation_file.merged(document, record, sheet, source)
    document, sheet = merged.document, replace(sheet, elsewhere=merged.places)
    problems += [*missing, *absent, *merged.faults]
    problems += contradictions(document, preserved, sheet)
    if problems:
        raise _refused(problems)
    used = records.Record((*record.overrides, *overrides), files, method, merged.text)
    values = {key: getattr(document, key) for key in Document.model_fields}
    raw = records.join(body, used).encode()
    if len(raw) > limits.LARGEST_FILE:
        raise _refused([_too_many_prompts(name)])
    return Recipe(
        **{
            **values,
            "name": document.name or (_stem(source) if source else UNNAMED),
            "method": method or document.method,
        },
        parameters=parameters,
        by_family=_tables_by_family(document, method),
        source=source,
        raw=raw,
        overrides=used.overrides,
        file_prompts=tuple(kept.prompt for kept in preserved if kept.file_line),
        prior_captions=tuple(once(kept.prompt for kept in captions)),
        warnings=tuple(islice(doubts(document, sheet), MOST_FAULTS)),
        unjudged=tuple(islice(unjudged(document, sheet), MOST_FAULTS)),
    )


def _tables_by_family(document: Document, method: str | None) -> dict[str, dict[str, Any]]:
    """The method's own tables for each family. `method` replaces the recipe's method."""
    if method in (None, document.method):
        return {
            family: method_tables.own_tables(tables) for family, tables in document.families.items()
        }
    return {
        family: tables.get("methods", {}).get(method, {})
        for family, tables in document.families.items()
    }


def _stem(source: Path) -> str:
    """The name of a recipe without a name: its file's. Bytes that are not UTF-8 are replaced."""
    return os.fsencode(source.stem).decode("utf-8", "replace")


def _too_many_prompts(name: str) -> ForgetError:
    return ForgetError(
        "recipe.too-long",
        f"{name}: its prompt files have more than {limits.LARGEST_FILE // 10**6} MB",
        "preserve fewer prompts",
    )


def _refused(problems: list[ForgetError]) -> RecipeError:
    """The error for a recipe with these faults, sorted by line."""
    ordered = sorted(problems, key=_line)
    if len(ordered) > MOST_FAULTS:
        ordered[MOST_FAULTS:] = [
            ForgetError("recipe.more-faults", "the recipe has more faults than these")
        ]
    return RecipeError([_short(problem) for problem in ordered])


def _short(problem: ForgetError) -> ForgetError:
    """A fault with its message and hint shortened to a readable length."""
    message = clipped(problem.message, LONGEST_MESSAGE)
    return ForgetError(problem.code, message, clipped(problem.hint, LONGEST_MESSAGE))


def _method_faults(
    data: Mapping[str, Any], parameters: Mapping[str, Any], sheet: Sheet
) -> list[ForgetError]:
    """Faults in the tables of the recipe's own method, of other methods and of families."""
    method = data.get("method", "nullspace")
    return [
        *method_tables.faults(method, parameters, sheet),
        *method_tables.faults_of_others(data.get("methods"), sheet, ("methods",)),
        *method_tables.faults_of_families(data.get("families"), method, sheet),
    ]


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe with the tables of every method, for editors."""
    return _json_schema().build()


def schema_text() -> str:
    """`schema` as the text of a file."""
    return _json_schema().text()


def _json_schema() -> ModuleType:
    # Imported here: the import takes a tenth of the time of a check, and checks do not need it.
    from forgetcli.recipe import json_schema

    return json_schema


def _read(text: str | bytes, name: str) -> tuple[str, records.Record, dict[str, Any]]:
    try:
        body, record = _split(toml_text.decoded(text, name), name)
        return body, record, toml_text.tables_of(body, name)
    except ForgetError as fault:
        raise _refused([fault]) from fault


def _split(text: str, name: str) -> tuple[str, records.Record]:
    try:
        return records.split(text)
    except ValueError as error:
        raise ForgetError(
            "recipe.toml",
            f"{name}: what forget recorded at its end (#:set, #:file, #:line) is damaged",
            "take those lines out, or take the recipe from where it came from",
        ) from error


def _document_apart_from(faults: list[ForgetError], tables: Mapping[str, Any]) -> Document | None:
    """The document without unknown keys, for further checks; None if it has other faults."""
    if any(fault.code != "recipe.unknown-key" for fault in faults):
        return None
    return Document.model_validate(without_unknown_keys(Document, tables))


def _line(problem: ForgetError) -> int:
    """The line of a problem, for sorting. Problems without a line (``--set``) come first."""
    match = re.search(r":(\d+): ", problem.message)
    return int(match[1]) if match else 0
