"""Lower bounds for scores: ``forget eval --fail-under forget=0.8,retain=0.8``.

A score that was not measured never passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard

from forgetcli.errors import ForgetError
from forgetcli.evaluation.figure import Figure
from forgetcli.storage import json as plain_json

KEYS = (
    "forget",
    "forget_direct",
    "forget_indirect",
    "retain",
    "h",
    "target",
    "adjacent",
    "selective",
    "err",
)
RESIST = "resist"  # of attacks: 1 − success of the strongest
MOST_ATTEMPTS = 1_000_000  # of one attack


@dataclass(frozen=True)
class Gate:
    """A score, by its key in results.json, and its lower bound."""

    key: str
    bound: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one gate for one model. `text` describes it in one line."""

    gate: Gate
    model: str
    passed: bool
    text: str


def parse(text: str, keys: Sequence[str] = KEYS) -> tuple[Gate, ...]:
    """The gates of ``key=bound,key=bound``.

    Args:
        keys: the measures that can have a bound.
    Raises:
        ForgetError: an unknown key, a bound outside [0, 1], or no gate.
    """
    gates = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, bound = (x.strip() for x in part.partition("="))
        if key not in keys:
            near = get_close_matches(key, keys, 1)
            raise ForgetError(
                "eval.unknown-gate",
                f"--fail-under has no measure '{key}'",
                f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(keys)}",
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


def read_attacks(path: Path) -> dict[str, Figure]:
    """The attacked model's digest → how far it resists, from the results.json of ``forget attack``.

    Raises:
        ForgetError: eval.bad-attacks: the file is none of that.
    """
    try:
        data = plain_json.read_json(path)
        digest, n, resist = data["model"]["digest"], data["resist_n"], data["resist"]
        ends = [float(end) for end in data["resist_ci"]]
        sound = data["command"] == "attack" and isinstance(digest, str) and type(n) is int
        shares = [*ends, *([] if resist is None else [resist])]
        sound = sound and all(_number(share) and 0 <= share <= 1 for share in shares)
        if not sound or len(ends) != 2 or not 0 <= n <= MOST_ATTEMPTS:
            raise ValueError("not the results of attacks")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ForgetError(
            "eval.bad-attacks",
            f"{path} holds no results of `forget attack`",
            "name its results.json, such as attack/results.json",
        ) from fault
    return {digest: Figure(resist, (ends[0], ends[1]), n)}


def outcomes(data: Mapping, gates: Sequence[Gate], *, confident: bool) -> Iterator[Outcome]:
    """The outcome of every gate for every edited model.

    Args:
        data: the result of ``eval``, as in results.json.
        confident: compare the lower end of the interval instead of the value.
    """
    for model in data["models"]:
        for gate in gates:
            # Whether the target was reached is no score of the unedited model, so it lies beside.
            scores = {**model["edited"], **model.get("target", {})}
            yield outcome(model["name"], scores, gate, confident)


def outcome(model: str, scores: Mapping[str, Any], gate: Gate, confident: bool) -> Outcome:
    """The outcome of one gate.

    Args:
        model: the model's name.
        scores: KEY, KEY_ci and KEY_n of the gate's measure.
        confident: as in `outcomes`.
    """
    value = scores.get(gate.key)
    low = (scores.get(f"{gate.key}_ci") or [math.nan])[0]
    passed = False
    if bool(scores.get(f"{gate.key}_n")) and _number(value) and _number(low):
        passed = (low if confident else value) >= gate.bound
        what = f"{gate.key} = {value:.3f}"
        if confident:
            what += f", lower end {low:.3f}"
    else:
        what = f"{gate.key} was not measured"
    comparison = "≥" if passed else "not ≥"
    return Outcome(gate, model, passed, f"{model}: {what} ({comparison} {gate.bound:g})")


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
