"""A measured value with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forgetcli.evaluation.intervals import wilson


@dataclass(frozen=True)
class Figure:
    """A measured value with its interval. All numbers are rounded to four decimals.

    Attributes:
        value: from 0 to 1. None if nothing was measured.
        interval: the 95 % interval; (0, 1) if nothing was measured.
        count: the number of images.
    """

    value: float | None
    interval: tuple[float, float]
    count: int

    def as_dict(self, name: str) -> dict[str, Any]:
        """The stable keys of a figure called `name`."""
        return {name: self.value, f"{name}_ci": list(self.interval), f"{name}_n": self.count}


NOTHING = Figure(None, (0.0, 1.0), 0)


def share(outcomes: Sequence[bool]) -> Figure:
    """The fraction that is true, with Wilson's interval."""
    count = len(outcomes)
    successes = sum(outcomes)
    low, high = wilson(successes, count)
    return Figure(
        value=round(successes / count, 4) if count else None,
        interval=(round(low, 4), round(high, 4)),
        count=count,
    )
