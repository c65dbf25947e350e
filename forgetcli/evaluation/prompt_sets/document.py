"""TOML with a line for every key, for formats that people write by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import tomli

from forgetcli.evaluation.prompt_sets.settings import SETTINGS
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.recipe.problems import described, in_words
from forgetcli.recipe.toml_lines import KeyPath, key_lines


class Document:
    """The keys of a file. Faults of values are noted in `sheet`; a harmless value is returned."""

    def __init__(self, sheet: Source) -> None:
        self.sheet = sheet
        self.data = _parsed(sheet)
        self.lines = key_lines(sheet.text)

    def line(self, path: KeyPath) -> int:
        """The line of `path`, or of the innermost table around it that has a line."""
        return next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0
        )

    def known(self, path: KeyPath, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        """Note every key of `table` that is not in `keys`, and a schema version other than 1."""
        for key in (key for key in table if key not in keys):
            owner = in_words(path) if path else "a prompt set"
            near = get_close_matches(key, keys, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(keys)}"
            self.fault((*path, key), f"{owner} has no key '{key}'", hint, "unknown-key")
        version = table.get("schema_version", 1)
        if not path and (version != 1 or isinstance(version, bool | float)):
            self.fault(("schema_version",), f"schema_version must be 1, not {described(version)}")

    def settings(self) -> dict[str, Any]:
        """The settings for the whole set, as keywords of an EvalPrompt."""
        values: dict[str, Any] = {}
        for name, setting in SETTINGS.items():
            if name in self.data:
                try:
                    values[name] = setting.checked(self.data[name])
                except ValueError:
                    self.fault(
                        (name,),
                        f"{name} must be {setting.demand}, not {described(self.data[name])}",
                    )
        return values

    def tables(self, key: str) -> list[tuple[KeyPath, Mapping[str, Any]]]:
        """The tables ``[[key]]``, with their paths."""
        found = self.data.get(key, [])
        if not isinstance(found, list):
            self.fault((key,), f"[[{key}]] must be a list of tables, not {described(found)}")
            return []
        for index, item in enumerate(found):
            if not isinstance(item, Mapping):
                self.fault(
                    (key, index), f"{in_words((key, index))} must be a table, not {described(item)}"
                )
        return [
            ((key, index), item) for index, item in enumerate(found) if isinstance(item, Mapping)
        ]

    def text(self, path: KeyPath, table: Mapping[str, Any], key: str, needed: bool = False) -> str:
        """A string that is not blank; empty if the key is missing."""
        if key in table:
            return self._string((*path, key), table[key])
        if needed:
            self.fault(path, f"{in_words(path)} needs the key '{key}'")
        return ""

    def texts(self, path: KeyPath, table: Mapping[str, Any], key: str) -> list[tuple[int, str]]:
        """A list of strings, each with its line; empty if the key is missing."""
        found = table.get(key, [])
        if not isinstance(found, list):
            self.fault(
                (*path, key), f"{in_words((*path, key))} must be a list, not {described(found)}"
            )
            return []
        paths = [(*path, key, index) for index in range(len(found))]
        return [
            (self.line(place), self._string(place, item))
            for place, item in zip(paths, found, strict=True)
        ]

    def fault(self, path: KeyPath, message: str, hint: str = "", code: str = "bad-value") -> None:
        """Note a fault at `path`."""
        self.sheet.fault(self.line(path), message, hint, code)

    def _string(self, path: KeyPath, value: object) -> str:
        if not isinstance(value, str):
            self.fault(path, f"{in_words(path)} must be a string, not {described(value)}")
            return ""
        if not value.strip():
            self.fault(path, f"{in_words(path)} is empty", "write what is meant, or leave it out")
        return value.strip()


def _parsed(sheet: Source) -> dict[str, Any]:
    line, hint = 0, ""
    try:
        return tomli.loads(sheet.text)
    except tomli.TOMLDecodeError as error:
        # "Invalid value (at line 3, column 5)": the message begins with the line instead.
        message, _, position = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", position)
        line = int(found[1]) if found else sheet.text.count("\n") + 1
        what = f"{message[:1].lower()}{message[1:]}"
        hint = "strings need quotes, lists square brackets; see https://toml.io"
    except RecursionError:
        what = "lists are nested too deep"
    except ValueError:
        what = "a number has too many digits"
    raise sheet.refusal("bad-toml", line, f"not TOML: {what}", hint)
