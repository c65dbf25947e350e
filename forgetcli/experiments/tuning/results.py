"""The results of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One set of parameter values, and the scores of the model that was edited with them.

    Attributes:
        number: position among the finished trials, from 0.
        parameters: values by dotted parameter name.
        state: ``complete``, ``pruned`` or ``failed``.
        scores: the scores over all images; None if the trial was not scored on all of them.
        why: the reason why the trial has no scores.
    """

    number: int
    parameters: Mapping[str, Any]
    state: str
    scores: Mapping[str, Any] | None = None
    why: str = ""

    @property
    def h(self) -> float:
        """H; 0 if it was not measured."""
        return (self.scores or {}).get("h") or 0.0

    def as_dict(self) -> dict:
        return {
            "number": self.number,
            "parameters": dict(self.parameters),
            "state": self.state,
            "scores": dict(self.scores) if self.scores else None,
            "why": self.why,
        }


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        recipe: the file with the recipe and the best trial's values.
        method: the method whose parameters were searched.
        own: the trial with the recipe's own values.
        best: the completed trial with the highest H.
        trials: all finished trials.
        baseline: scores of the unedited model.
        seconds: duration of each stage.
    """

    recipe: Path
    method: str
    own: Trial
    best: Trial
    trials: tuple[Trial, ...]
    baseline: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def completed(self) -> tuple[Trial, ...]:
        """The trials that were scored on all images."""
        return completed(self.trials)

    def as_dict(self) -> dict:
        """The stable keys of ``tune --json``."""
        return {
            "output": str(self.recipe),
            "method": self.method,
            "own": self.own.as_dict(),
            "best": self.best.as_dict(),
            "baseline": dict(self.baseline),
            "trials": [trial.as_dict() for trial in self.trials],
            "seconds": dict(self.seconds),
        }


def completed(trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
    """The trials that were scored on all images."""
    return tuple(trial for trial in trials if trial.state == "complete")
