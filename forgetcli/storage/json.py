"""JSON that every parser accepts: without NaN and Infinity, which Python would write."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")


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
    # A name of a file that is not UTF-8 has lone surrogates, which UTF-8 cannot hold.
    return SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text + "\n").encode()
