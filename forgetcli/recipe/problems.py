"""Faults of a recipe, each in the recipe's own terms and with its line."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from pydantic import BaseModel, ValidationError

from forgetcli.errors import ForgetError
from forgetcli.recipe.toml_lines import KeyPath

_EXPECTED = {
    "string": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "dict": "a table",
    "model": "a table",
}
MOST_FAULTS = 50  # reported at a time
_SCALAR_TYPES = {"string_type", "int_type", "float_type", "bool_type"}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


@dataclass(frozen=True)
class Sheet:
    """Where things stand in a recipe: `name` as users know it, `data` as read, `lines` and
    `overrides` by key path.

    Attributes:
        elsewhere: ``file:line`` of keys that come from another file.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    elsewhere: Mapping[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """``recipes/x.toml:14``, or ``--set refine.step`` where the command line put it there."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
            if path[:length] in self.elsewhere:
                return self.elsewhere[path[:length]]
        return self.name

    def line(self, path: KeyPath) -> int:
        """The line of a key, or of the table that holds it; 0 for a key of the command line."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return 0
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0

    def problem(self, code: str, path: KeyPath, message: str, hint: str = "") -> ForgetError:
        """A fault at `path`; `code` without its ``recipe.``."""
        return ForgetError(f"recipe.{code}", f"{self.place(path)}: {message}", hint)


def faults_of(
    model: type[BaseModel], tables: Mapping[str, Any], sheet: Sheet, more_keys: Iterable[str] = ()
) -> list[ForgetError]:
    """The findings of pydantic in `tables`, as faults of the recipe, one for each place.

    A number written as a string is a fault even where `model` would convert it.

    Args:
        more_keys: keys that a recipe may have beside the model's own; they serve did-you-mean.
    """
    by_path: dict[KeyPath, list[Any]] = {}
    for finding in _findings(model, _tuples(tables), strict=True):
        if finding["type"] in _SCALAR_TYPES:
            by_path.setdefault(_path_in_data(finding["loc"], sheet.data), []).append(finding)
    reported = set(by_path)
    for finding in _findings(model, tables, strict=None):
        path = _path_in_data(finding["loc"], sheet.data)
        # A list whose items are all faulty is also too short for pydantic. Report only the items.
        if path not in reported and not (finding["type"] == "too_short" and finding["input"]):
            by_path.setdefault(path, []).append(finding)
    # In the recipe's order, and no more than are reported: to look for similar keys takes time.
    paths = sorted(by_path, key=lambda path: sheet.line(path))[: MOST_FAULTS + 1]
    return [_fault(path, by_path[path], sheet, model, more_keys) for path in paths]


def _findings(model: type[BaseModel], tables: Mapping[str, Any], strict: bool | None) -> list[Any]:
    try:
        model.model_validate(tables, strict=strict)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _tuples(value: Any) -> Any:
    """`value` with tuples for lists: pydantic's strict mode takes no list for a tuple."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fault(
    path: KeyPath,
    findings: list[Any],
    sheet: Sheet,
    fields: type[BaseModel],
    more_keys: Iterable[str],
) -> ForgetError:
    first = findings[0]
    kind, value = first["type"], first["input"]
    where = table_in_words(path) if isinstance(value, Mapping) else in_words(path)
    if kind == "extra_forbidden":
        return unknown_key(
            path, sheet, [*fields_at(fields, path[:-1]), *(more_keys if len(path) == 1 else ())]
        )
    if kind == "missing":
        if path == ("concepts",):
            return no_concepts(sheet, path)
        return sheet.problem(
            "missing", path[:-1], f"{table_in_words(path[:-1])} needs the key '{path[-1]}'"
        )
    if kind == "template":
        return sheet.problem(
            "template",
            path,
            f"{where} is '{first['input']}': it must have exactly one {{}}",
            '{} is where the concept goes: "a picture of {}"',
        )
    if kind == "string_pattern_mismatch" and not str(first["input"]).strip():
        return sheet.problem(
            "empty", path, f"{where} is empty", "write what is meant, or leave it out"
        )
    if kind in ("too_short", "string_too_short"):
        return (
            no_concepts(sheet, path)
            if path == ("concepts",)
            else sheet.problem("empty", path, f"{where} is empty")
        )
    expected = [
        _EXPECTED[name]
        for name in (found["type"].split("_")[0] for found in findings)
        if name in _EXPECTED
    ]
    if expected and len(expected) == len(findings):
        types = " or ".join(dict.fromkeys(expected))
        return sheet.problem(
            "type", path, f"{where} must be {types}, not {described(first['input'])}"
        )
    return sheet.problem("value", path, f"{where} {_demand(first)}")


def _demand(finding: Any) -> str:
    """The requirement that a value does not meet, from pydantic's finding."""
    kind, context = finding["type"], finding.get("ctx", {})
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]}, not {finding['input']}"
    if kind in ("literal_error", "enum"):
        return f"must be {context['expected']}, not {described(finding['input'])}"
    if kind == "finite_number":
        return f"must be a finite number, not {finding['input']}"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    return f"does not do: {finding['msg'][0].lower()}{finding['msg'][1:]}"


def no_concepts(sheet: Sheet, path: KeyPath) -> ForgetError:
    """The fault of a recipe without concepts."""
    return sheet.problem(
        "empty",
        path,
        "there are no [[concepts]]: nothing to forget",
        'add a table [[concepts]] with concept = "…" and target = "…"  '
        "(forget recipe init writes an example)",
    )


def unknown_key(path: KeyPath, sheet: Sheet, candidates: Iterable[str]) -> ForgetError:
    """A key that does not exist in its table."""
    owner, key = table_in_words(path[:-1]), str(path[-1])
    is_table = len(path) == 1 and isinstance(sheet.data.get(key), dict | list)
    message = f"there is no table [{key}]" if is_table else f"{owner} has no key '{key}'"
    return sheet.problem("unknown-key", path, message, did_you_mean(key, candidates))


def did_you_mean(
    word: str, candidates: Iterable[str], listing: str = "forget recipe schema"
) -> str:
    """A hint that names what is near `word`, or all there is; `listing` is the command that lists
    all.
    """
    known = sorted(set(candidates))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?  ({listing} lists all)"
    return f"there are: {', '.join(known)}" if known else f"{listing} lists all"


def clipped(text: str, longest: int = 60) -> str:
    """`text` for a message: its beginning, if it is long."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def table_in_words(path: KeyPath) -> str:
    """A table as the owner of keys: ``[refine]``, ``[[concepts]]``; ``a recipe`` at the top."""
    if path and all(isinstance(key, str) for key in path):
        return f"[{'.'.join(map(str, path))}]"
    return in_words(path)


def without_unknown_keys(model: type[BaseModel], tables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tables` that lacks the keys `model` does not know, so that the rest can be checked
    further.
    """
    pruned = copy.deepcopy(dict(tables))
    for finding in _findings(model, tables, strict=None):
        if finding["type"] == "extra_forbidden":
            holder: Any = pruned
            for key in finding["loc"][:-1]:
                holder = holder[key]
            del holder[finding["loc"][-1]]
    return pruned


def in_words(path: KeyPath) -> str:
    """A key path as a recipe writes it: ``[[concepts]] aliases, item 2``."""
    match path:
        case ():
            return "a recipe"
        case (str(key),):
            return key
        case (str(table), int(item)):
            return (
                f"[[{table}]]" if table in ("concepts", "retain") else f"{table}, item {item + 1}"
            )
        case (str(table), int(_), *rest):
            head = f"[[{table}]]"
        case (str(table), *rest):
            head = f"[{table}]"
    keys = ".".join(str(key) for key in rest if isinstance(key, str))
    items = "".join(f", item {key + 1}" for key in rest if isinstance(key, int))
    return f"{head} {keys}{items}"


def described(value: object) -> str:
    """A TOML value in a few words: ``the string "six"``, ``a list``."""
    match value:
        case str():
            return f'the string "{clipped(value, 40)}"'
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case datetime() | date() | time():
            return "a date or time"
    return type(value).__name__


def _path_in_data(location: tuple[str | int, ...], data: Any) -> KeyPath:
    """`location` without what pydantic adds to it for unions: the part that is in the recipe, and
    one key more.
    """
    path: KeyPath = ()
    for key in location:
        is_inside = isinstance(data, Mapping) or (
            isinstance(data, list | tuple) and isinstance(key, int)
        )
        if not is_inside:
            break
        path += (key,)
        try:
            data = data[key]
        except (KeyError, IndexError):
            break
    return path


def fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that may stand in the table at `path` of a recipe described by `model`."""
    for key in path:
        if isinstance(key, str):
            inner = (
                _model_in(model.model_fields[key].annotation) if key in model.model_fields else None
            )
            if inner is None:
                return []
            model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
