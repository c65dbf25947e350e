"""Bounds that a pipeline sets: ``forget eval --fail-under forget=0.8,retain=0.8``. What was not
measured never passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from forgetcli.errors import ForgetError

KEYS = ("forget", "forget_direct", "forget_indirect", "retain", "h")


@dataclass(frozen=True)
class Gate:
    key: str
    bound: float


@dataclass(frozen=True)
class Outcome:
    """One gate of one model. `text` says it in a line."""

    gate: Gate
    model: str
    passed: bool
    text: str


def parse(text: str) -> tuple[Gate, ...]:
    """The gates of ``key=bound,key=bound``.

    Raises:
        ForgetError: an unknown key, a bound outside [0, 1], or nothing at all.
    """
    gates = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, bound = (x.strip() for x in part.partition("="))
        if key not in KEYS:
            near = get_close_matches(key, KEYS, 1)
            raise ForgetError(
                "eval.unknown-gate",
                f"--fail-under has no measure '{key}'",
                f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(KEYS)}",
            )
        try:
            number = float(bound)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            raise ForgetError(
                "eval.bad-gate",
                f"--fail-under {part}: the bound is not a number from 0 to 1",
                f"for instance {key}=0.8",
            )
        gates.append(Gate(key, number))
    if not gates:
        raise ForgetError(
            "eval.bad-gate", "--fail-under names no measure", "for instance forget=0.8,retain=0.8"
        )
    return tuple(gates)


def outcomes(data: Mapping, gates: Sequence[Gate], *, confident: bool) -> Iterator[Outcome]:
    """Every gate for every edited model of ``eval``'s result; `confident` compares the lower end of
    the interval.
    """
    for model in data["models"]:
        scores = model["edited"]
        for gate in gates:
            value, low = scores.get(gate.key), (scores.get(f"{gate.key}_ci") or [math.nan])[0]
            compared = low if confident else value
            measured = bool(scores.get(f"{gate.key}_n")) and all(_number(x) for x in (value, low))
            passed = measured and compared >= gate.bound
            what = (
                (f"{gate.key} = {value:.3f}" + (f", lower end {low:.3f}" if confident else ""))
                if measured
                else f"{gate.key} was not measured"
            )
            yield Outcome(
                gate,
                model["name"],
                passed,
                f"{model['name']}: {what} ({'≥' if passed else 'not ≥'} {gate.bound:g})",
            )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
