"""JSON, written without NaN and Infinity, so that every parser accepts it, and read with limits, so
that no file can exhaust memory or Python's stack.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetcli.storage.files import read_regular

LARGEST_FILE = 64_000_000  # bytes; the largest JSON files are tokenizers, with about 20 MB
DEEPEST = 64  # nesting depth of lists and tables
LONGEST_NUMBER = 200  # digits; Python's conversion takes quadratic time
MOST_VALUES = 2_000_000
# A string, or the rest of the text if the string does not end. The quantifiers are possessive: they
# never backtrack, so matching takes linear time.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+["\\]?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (LONGEST_NUMBER + 1))
SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(path: str | Path, limit: int = LARGEST_FILE) -> Any:
    """The value in a JSON file.

    Raises:
        ModelError: file.not-regular, file.too-large.
        OSError: the file is missing or may not be read.
        ValueError: as `decode`.
    """
    return decode(read_regular(path, limit))


def decode(data: bytes, *, nan: bool = True, most_values: int = MOST_VALUES) -> Any:
    """The value that a JSON text stands for.

    Args:
        nan: accept NaN and Infinity, which Python's own writer produces.
        most_values: the largest number of values that the text may have.
    Raises:
        ValueError: the text is not JSON in UTF-8, has a key twice in a table or a lone surrogate
            (which no file can hold), or exceeds a limit: of values, nesting depth or digits. Never
            RecursionError.
    """
    text = data.decode("utf-8")
    _check_limits(data, most_values)
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=None if nan else _refuse)
    if _SURROGATE.search(data):
        # Raises UnicodeEncodeError, a ValueError, for a surrogate that is not part of a pair.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_limits(data: bytes, most_values: int) -> None:
    """Refuse a text that is expensive to parse. The check takes linear time."""
    bare = _STRING.sub(b"0", data)
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > most_values:
        raise ValueError(f"it has more than {most_values} values")
    if _LONG_NUMBER.search(bare):
        raise ValueError(f"a number has more than {LONGEST_NUMBER} digits")
    brackets = bare.translate(None, _NOT_BRACKETS)
    for _ in range(DEEPEST):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    # Unmatched brackets are left too. The parser stops at the first unmatched closing bracket.
    opening = brackets.count(b"[") + brackets.count(b"{")
    if b"[]" in brackets or b"{}" in brackets or opening > DEEPEST:
        raise ValueError(f"lists or tables are nested more than {DEEPEST} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number in JSON")


def plain(value: Any) -> Any:
    """A copy of `value`: None for numbers that are not finite, tuples as lists, keys as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode(value: Any) -> bytes:
    """The content of a JSON file: keys in their order, indented by two spaces."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    # File names that are not UTF-8 have lone surrogates, which UTF-8 cannot hold.
    return SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text + "\n").encode()
