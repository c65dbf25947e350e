"""Recipes: concepts to forget, their targets, and what must not change. Checked without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import tomli

from forgetcli.bundled import recipes as bundled_recipes
from forgetcli.bundled.recipes import bundled
from forgetcli.errors import ForgetError, ModelError, RecipeError
from forgetcli.recipe import limits, prompt_files, toml_lines
from forgetcli.recipe import parameters as method_tables
from forgetcli.recipe import usage as records
from forgetcli.recipe.consistency import PreservedPrompt, contradictions, doubts, unjudged
from forgetcli.recipe.model import Concept, Document, Preserve, Prompts, Recipe, Retained, once
from forgetcli.recipe.problems import (
    MOST_FAULTS,
    Sheet,
    clipped,
    did_you_mean,
    faults_of,
    in_words,
    without_unknown_keys,
)
from forgetcli.recipe.toml_lines import KeyPath
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
LONGEST_SHOWN = 200  # characters of a --set in a message
_BOM = "\ufeff"  # Windows editors write it; TOML does not have it


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    method: str | None = None,
    *,
    pipe: bool = False,
) -> Recipe:
    """The recipe in a file, or the bundled one of that name (``art_styles``).

    Args:
        overrides: ``key=value`` as for ``--set``: a dotted key (``concepts.0.target``), a TOML
            value or a bare word.
        method: use this method instead, with the parameters that the recipe has for it in
            ``[methods.NAME]``.
        pipe: also read a pipe, as the user named it on the command line. Its prompt files are
            looked for in the current folder.
    Raises:
        RecipeError: with every fault that was found.
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
        hint = (
            did_you_mean(path.stem, bundled(), "forget recipe ls")
            if isinstance(error, FileNotFoundError)
            else "give the recipe's file"
        )
        reason = (
            "there is no such recipe"
            if isinstance(error, FileNotFoundError)
            else error.strerror or str(error)
        )
        raise RecipeError([ForgetError("recipe.not-found", f"{path}: {reason}", hint)]) from error
    return parse(raw, None if piped else source, overrides, method)


def parse(
    text: str | bytes,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    method: str | None = None,
) -> Recipe:
    """A recipe from its text. `source` names it in messages and is where its prompt files are
    looked for.

    Raises:
        RecipeError: with every fault that was found.
    """
    name = str(source or UNNAMED)
    body, record, data = _read(text, name)
    overridden, problems = _overridden(data, (*record.overrides, *overrides))
    sheet = Sheet(name, data, toml_lines.key_lines(body.removeprefix(_BOM)), overridden)
    # Other checks recurse, compare and quote: they see nothing that is too deep or too long.
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
    preserved, files, missing = _preserved(document, record, sheet, source)
    captions, caption_files, absent = _from_files("captions", document, record, sheet, source)
    files |= caption_files
    problems += missing + absent + contradictions(document, preserved, sheet)
    if problems:
        raise _refused(problems)
    used = records.Record((*record.overrides, *overrides), files, method)
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
    """The method's own tables for each family. `method` overrides the recipe's."""
    if method in (None, document.method):
        return {
            family: method_tables.own_tables(tables) for family, tables in document.families.items()
        }
    return {
        family: tables.get("methods", {}).get(method, {})
        for family, tables in document.families.items()
    }


def _stem(source: Path) -> str:
    """A recipe's name by its file. Names that are not UTF-8 get replacement characters."""
    return os.fsencode(source.stem).decode("utf-8", "replace")


def _too_many_prompts(name: str) -> ForgetError:
    return ForgetError(
        "recipe.too-long",
        f"{name}: its prompt files have more than {limits.LARGEST_FILE // 10**6} MB",
        "preserve fewer prompts",
    )


def _refused(problems: list[ForgetError]) -> RecipeError:
    """The error of a recipe with these faults: the first of them, in the recipe's order."""
    ordered = sorted(problems, key=_line)
    if len(ordered) > MOST_FAULTS:
        ordered[MOST_FAULTS:] = [
            ForgetError("recipe.more-faults", "the recipe has more faults than these")
        ]
    return RecipeError([_short(problem) for problem in ordered])


def _short(problem: ForgetError) -> ForgetError:
    """A fault whose message and hint are not longer than a user reads."""
    message = clipped(problem.message, LONGEST_MESSAGE)
    return ForgetError(problem.code, message, clipped(problem.hint, LONGEST_MESSAGE))


def _overridden(
    data: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[KeyPath, str], list[ForgetError]]:
    """Change `data` as overrides say: the keys by path, as written, and the faulty overrides."""
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
    # Imported here: a tenth of the time that a check of a recipe takes, which does not need it.
    from forgetcli.recipe import json_schema

    return json_schema


def _read(text: str | bytes, name: str) -> tuple[str, records.Record, dict[str, Any]]:
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        decoded.encode()  # a text with lone surrogates is not one that a file can hold
        body, record = _split(decoded, name)
        limits.check_text(body, name)
        return body, record, tomli.loads(body.removeprefix(_BOM))
    except ForgetError as error:
        fault = error
    except UnicodeEncodeError:
        fault = ForgetError(
            "recipe.toml", f"{name}: not Unicode text: it has lone surrogates", "save it as UTF-8"
        )
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fault = ForgetError(
            "recipe.toml", f"{name}:{line}: not UTF-8 text", "save the file as UTF-8"
        )
    except tomli.TOMLDecodeError as error:
        # "Invalid value (at line 3, column 5)": the line goes to the front
        message, _, position = str(error).partition(" (at ")
        line_match = re.match(r"line (\d+)", position)
        line = int(line_match[1]) if line_match else body.count("\n") + 1
        fault = ForgetError(
            "recipe.toml",
            f"{name}:{line}: not TOML: {message[:1].lower()}{message[1:]}",
            "strings need quotes, lists square brackets; see https://toml.io",
        )
    except ValueError:  # Python's own: a number of more than 4,300 digits
        fault = ForgetError("recipe.toml", f"{name}: not TOML: a number is too long")
    except RecursionError:
        fault = ForgetError(
            "recipe.toml", f"{name}: not TOML that can be read: lists nested too deep"
        )
    raise _refused([fault])


def _split(text: str, name: str) -> tuple[str, records.Record]:
    try:
        return records.split(text)
    except (ValueError, KeyError) as error:
        raise ForgetError(
            "recipe.toml",
            f"{name}: what forget recorded at its end (#:set, #:file, #:line) is damaged",
            "take those lines out, or take the recipe from where it came from",
        ) from error


def _document_apart_from(faults: list[ForgetError], tables: Mapping[str, Any]) -> Document | None:
    """The recipe without its unknown keys, for further checks; None if it has other faults."""
    if any(fault.code != "recipe.unknown-key" for fault in faults):
        return None
    return Document.model_validate(without_unknown_keys(Document, tables))


def _line(problem: ForgetError) -> int:
    """The line of a problem, for sorting; those without one (``--set``) come first."""
    match = re.search(r":(\d+): ", problem.message)
    return int(match[1]) if match else 0


def _preserved(
    document: Document,
    record: records.Record,
    sheet: Sheet,
    source: Path | None,
) -> tuple[list[PreservedPrompt], dict[str, tuple[str, ...]], list[ForgetError]]:
    """Prompts to preserve, the prompts of each file (as read now, or as recorded), and faults."""
    preserved = [
        PreservedPrompt(prompt, ("preserve", "prompts", i))
        for i, prompt in enumerate(document.preserve.prompts)
    ]
    from_files, files, problems = _from_files("files", document, record, sheet, source)
    return preserved + from_files, files, problems


def _from_files(
    key: str,
    document: Document,
    record: records.Record,
    sheet: Sheet,
    source: Path | None,
) -> tuple[list[PreservedPrompt], dict[str, tuple[str, ...]], list[ForgetError]]:
    """The prompts of the files that `[preserve]` names at `key`, those of each file, and faults."""
    prompts: list[PreservedPrompt] = []
    files: dict[str, tuple[str, ...]] = {}
    problems = []
    for index, name in enumerate(getattr(document.preserve, key)):
        path: KeyPath = ("preserve", key, index)
        folder = source.parent if source else Path()
        file = folder / name
        try:
            lines = (
                list(enumerate(record.files[name], start=1))
                if name in record.files
                else prompt_files.read(prompt_files.beside(folder, name))
            )
        except ForgetError as error:
            problems.append(_unreadable(error, path, sheet))
            continue
        files[name] = tuple(prompt for _, prompt in lines)
        prompts += [PreservedPrompt(prompt, path, f"{file}:{line}") for line, prompt in lines]
    return prompts, files, problems


def _unreadable(error: ForgetError, path: KeyPath, sheet: Sheet) -> ForgetError:
    """The fault of a prompt file that is not read."""
    if error.code == "file.outside":
        return ForgetError(error.code, f"{sheet.place(path)}: {error.message}", error.hint)
    hint = "prompt files are looked for beside the recipe"
    return sheet.problem("not-found", path, error.message, hint)


def _assignment(override: str) -> tuple[tuple[str, ...], Any]:
    """``refine.steps=6`` as (("refine", "steps"), 6)."""
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
    except (ValueError, RecursionError) as error:  # ValueError: TOML's own, and too many digits
        if value[:1] in ("", "[", "{", '"', "'"):
            raise ForgetError(
                "recipe.set",
                f"--set {shown}: the value is not TOML",
                'a list is [1, 2], a string a bare word or "quoted"',
            ) from error
        return keys, value  # bare words are a string


def _assign(data: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> KeyPath:
    """Put `value` at `keys` of `data` and return its path.

    Missing tables on the way are created; list items must exist.
    """
    holder: Any = data
    path: KeyPath = ()
    shown = repr(clipped(override, LONGEST_SHOWN))
    for depth, name in enumerate(keys, start=1):
        key: str | int = name
        if isinstance(holder, list):
            is_index = name.isascii() and name.isdecimal() and len(name) < 10
            if not is_index or int(name) >= len(holder):
                raise ForgetError(
                    "recipe.set",
                    f"--set {shown}: {in_words(path)} has no item '{clipped(name)}'",
                    f"it has {len(holder)}, counted from 0",
                )
            key = int(name)
        elif not isinstance(holder, dict):
            raise ForgetError(
                "recipe.set", f"--set {shown}: {in_words(path)} is neither a table nor a list"
            )
        path += (key,)
        if depth == len(keys):
            holder[key] = value
        else:
            holder = holder.setdefault(key, {}) if isinstance(holder, dict) else holder[key]
    return path
