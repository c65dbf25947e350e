"""An edited tiny pipeline with what is known about it: results of an evaluation and of attacks."""

from __future__ import annotations

from pathlib import Path

from pipelines import tiny_sd
from tiny_runs import RECIPE

from forgetcli import evaluate
from forgetcli.evaluation.figure import Figure
from forgetcli.pipeline.apply import apply
from forgetcli.report.results import write_json
from forgetcli.robustness.run import attack

SCORES = "eval/results.json"
ATTACKS = "attack/results.json"


def measured(place: Path) -> Path:
    """Fill `place`: the base ``sd``, ``edited``, and the results of both measurements of it."""
    (place / "art.toml").write_text(RECIPE)
    tiny_sd(place / "sd")
    apply(
        place / "art.toml",
        model=str(place / "sd"),
        output=place / "edited",
        device="cpu",
        strict=False,
    )
    scored = evaluate(
        place / "edited",
        steps=2,
        batch=2,
        features=None,
        near_concepts=0,
        output=place / "eval",
        device="cpu",
    )
    write_json(place / SCORES, scored.as_dict())
    attacked = attack(
        place / "edited",
        attacks=["swap"],
        images=2,
        steps=2,
        output=place / "attack",
        device="cpu",
    )
    write_json(place / ATTACKS, attacked.as_dict(), command="attack")
    return place


def written(figure: Figure) -> tuple[str, str, str]:
    """A figure as an ML-BOM has it: value, lower and upper bound."""
    return tuple(f"{number:.4f}" for number in (figure.value, *figure.interval))
