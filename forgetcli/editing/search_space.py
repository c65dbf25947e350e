"""Search spaces of `forget tune`: a method's ``SEARCH`` has dotted parameter → one of these.

No optuna here, since methods import this module.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, integers if both are.

    Attributes:
        log: sample on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of the values."""

    values: tuple
