"""The line of each key of a TOML text, for error messages. tomli does not report lines."""

from __future__ import annotations

import re
from bisect import bisect_right

import tomli

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[\s,]|#[^\n]*)*")  # between values: space, newlines, commas, comments
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")  # numbers, booleans, dates (which may hold a space)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every key, table and list item of `text`, which must be valid TOML.

    A path holds keys and indices: ``("concepts", 0, "target")``.
    """
    return _Scanner(text).scan()


def split_key(text: str) -> tuple[str, ...]:
    """``a."b c".d`` as ``("a", "b c", "d")``.

    Raises:
        ValueError: `text` is not a TOML key.
    """
    scanner = _Scanner(text)
    keys = scanner.key()
    if scanner.at != len(text):
        raise ValueError(text)
    return keys


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[KeyPath, int] = {}
        self.last_item: dict[KeyPath, int] = {}  # arrays of tables: the index that is open

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self.skip(_FILLER)
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> KeyPath:
        line = self.line()
        repeated = self.text.startswith("[[", self.at)
        brackets = 2 if repeated else 1
        self.at += brackets
        keys = self.key()
        self.at += brackets
        path = self.current(keys[:-1], line) + keys[-1:]
        self.lines.setdefault(path, line)
        if repeated:
            self.last_item[path] = self.last_item.get(path, -1) + 1
            path += (self.last_item[path],)
            self.lines[path] = line
        elif path in self.last_item:
            path += (self.last_item[path],)
        return path

    def current(self, keys: tuple[str, ...], line: int) -> KeyPath:
        """The path of a header's leading `keys`, in the last item of each array of tables among
        them.
        """
        path: KeyPath = ()
        for key in keys:
            path += (key,)
            self.lines.setdefault(path, line)
            if path in self.last_item:
                path += (self.last_item[path],)
        return path

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        keys = self.key()
        self.skip(_BLANK)
        self.at += 1  # the equals sign
        for length in range(1, len(keys) + 1):
            self.lines.setdefault(table + keys[:length], line)
        self.value(table + keys)

    def value(self, path: KeyPath) -> None:
        self.skip(_FILLER)
        self.lines.setdefault(path, self.line())
        opening = self.text[self.at]
        if opening == "[":
            self.items(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.skip(_STRING if opening in "\"'" else _SCALAR)

    def items(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while not self.closes("]"):
            self.value((*path, index))
            index += 1

    def inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while not self.closes("}"):
            self.pair(path)

    def closes(self, bracket: str) -> bool:
        self.skip(_FILLER)
        closed = self.text[self.at] == bracket
        self.at += closed
        return closed

    def key(self) -> tuple[str, ...]:
        """A bare, quoted or dotted key at the present place, which is left behind it."""
        keys = []
        while True:
            self.skip(_BLANK)
            match = _STRING.match(self.text, self.at) or _BARE_KEY.match(self.text, self.at)
            if match is None:
                raise ValueError(self.text[self.at :])
            self.at = match.end()
            raw = match.group()
            keys.append(tomli.loads(f"key = {raw}")["key"] if raw[0] in "\"'" else raw)
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return tuple(keys)
            self.at += 1

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def line(self) -> int:
        return bisect_right(self.newlines, self.at - 1) + 1
