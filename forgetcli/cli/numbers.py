"""Numbers for people: one style for all tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
MOST_DIGITS = 6  # after the point; smaller numbers have an exponent


def percent(value: float, digits: int = 0) -> str:
    """``95 %``. A share that would be rounded to nothing or to all is ``<1 %`` or ``>99 %``."""
    if digits == 0 and 0 < value < 0.005:
        return "<1 %"
    if digits == 0 and 0.995 <= value < 1:
        return ">99 %"
    return f"{100 * value:.{digits}f} %"


def share(scores: Mapping[str, Any], key: str) -> str:
    """A share with its 95 % interval, ``95 % (84–100)``, from `key` and ``key_ci`` of scores."""
    if scores.get(key) is None:
        return NOTHING
    interval = scores.get(f"{key}_ci")
    ends = f" {_range([100 * end for end in interval], 0)}" if interval else ""
    return percent(scores[key]) + ends


def figure(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A measure without a unit, with its interval: ``0.313 (0.21–0.42)``."""
    if value is None:
        return NOTHING
    if interval is None:
        return f"{value:.3g}"
    # Two significant digits of the larger end: 0.00085 (0.0006–0.0011), not (0.00–0.00).
    largest = max(map(abs, interval))
    known = 0 < largest < math.inf
    digits = max(2, 1 - math.floor(math.log10(largest))) if known else 2
    if digits > MOST_DIGITS:
        low, high = (f"{end:.1e}" for end in interval)
        return f"{value:.1e} ({low} to {high})"
    while digits > 2 and all(f"{end:.{digits}f}".endswith("0") for end in interval):
        digits -= 1
    text = f"{value:.3g}"
    return f"{f'{value:.{digits}f}' if 'e' in text else text} {_range(interval, digits)}"


def _range(ends: Sequence[float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in ends)
    # A dash between signs is misread.
    return f"({low} to {high})" if "-" in low + high else f"({low}–{high})"
