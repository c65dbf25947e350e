"""JSON that every parser takes: Python would write NaN and Infinity, which the format does not
have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with null for numbers that are not finite, tuples as lists, keys as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode(value: Any) -> bytes:
    """A file's content: keys in their order, two spaces of indent."""
    return (
        json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    ).encode()
