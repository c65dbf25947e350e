"""Numbers for people: one style for all tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"


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
    return f"{value:.3g}" + (f" {_range(interval, 2)}" if interval else "")


def _range(ends: Sequence[float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in ends)
    # A dash between signs is misread.
    return f"({low} to {high})" if "-" in low + high else f"({low}–{high})"
