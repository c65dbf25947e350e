"""What `forget tune` may try: a method's module has ``SEARCH``, dotted parameter → one of these. No
optuna: methods import it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones if both are; on a logarithmic scale for what is a
    scale.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple
