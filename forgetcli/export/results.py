"""The results of ``forget eval`` and ``forget attack`` on one model, read from their files.

Such a file may come from anyone: only figures with the right type and range are taken from it, and
only if the file names the digest of this model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli.errors import ForgetError, ModelError
from forgetcli.evaluation.figure import Figure
from forgetcli.evaluation.intervals import wilson
from forgetcli.storage import json
from forgetcli.storage.files import read_regular

# Where the commands write their results, if the user does not say otherwise.
EVALUATION = Path("eval/results.json")
ATTACKS = Path("attack/results.json")

# The key in results.json, and what it measures.
MEASURES = {
    "forget": "images of erased concepts in which the concept is not seen",
    "forget_direct": "the same, prompts that name the concept",
    "forget_indirect": "the same, prompts that describe it",
    "retain": "images of other concepts in which the concept is seen",
    "h": "harmonic mean of forget and retain",
    "adjacent": "images of near concepts in which the concept is seen",
    "selective": "images in which what else the prompt names is seen",
    "target": "images of erased concepts in which the target is seen",
    "err": "erasing, retention and robustness in one score",
}


@dataclass(frozen=True)
class JudgeError:
    """How often a judge is wrong about images whose content is known.

    Attributes:
        images: the set of images.
        kind: what the judge was asked for: thing or style.
        rate: the share of wrong verdicts.
    """

    images: str
    kind: str
    rate: Figure


@dataclass(frozen=True)
class Judge:
    """The classifier that judged the images.

    Attributes:
        digest: of its weights; empty if the results name none.
        errors: its error rates; empty if the results have none.
    """

    name: str
    digest: str
    errors: tuple[JudgeError, ...]


@dataclass(frozen=True)
class ConceptFigure:
    """One concept's score with both models; None for a model without images of it."""

    concept: str
    measure: str
    unedited: Figure | None
    edited: Figure | None


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation of this model.

    Attributes:
        sha256: digest of the results file.
        images: number of images of all models.
        settings: how the images were generated.
        unedited, edited: each measure of `MEASURES` that was made.
    """

    sha256: str
    judge: Judge
    images: int
    settings: Mapping[str, str]
    unedited: Mapping[str, Figure]
    edited: Mapping[str, Figure]
    concepts: tuple[ConceptFigure, ...]


@dataclass(frozen=True)
class AttackFigure:
    """One attack on one concept.

    Attributes:
        no_verdict: why the attack gives no verdict; empty if it gives one.
        edited: the share of attempts that succeed on the edited model; None if none counted.
        control: the same on the unedited model; None if that was not attacked.
        floor: the same on a model that never learned the concept.
        budget: what the attack on the edited model cost.
    """

    attack: str
    concept: str
    no_verdict: str
    edited: Figure | None
    control: Figure | None
    floor: Figure | None
    budget: Mapping[str, float]


@dataclass(frozen=True)
class Attacked:
    """The results of attacks on this model.

    Attributes:
        sha256: digest of the results file.
        resist: 1 − success of the strongest attack; None if no attack gives a verdict.
        strongest: that attack and its concept.
    """

    sha256: str
    judge: Judge
    settings: Mapping[str, str]
    resist: Figure | None
    strongest: str
    rows: tuple[AttackFigure, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The attacks that were run."""
        return tuple(dict.fromkeys(row.attack for row in self.rows))


def read_scores(path: Path, digest: str) -> Scores:
    """The scores of the model with this digest.

    Raises:
        ForgetError: evidence.results: the file holds no results of ``forget eval``;
            evidence.other-model: none of them is of this model.
    """
    data, sha256 = _loaded(path, "eval")
    try:
        models = [model for model in data["models"] if model["digest"] == digest]
        if not models:
            raise _other_model(path, "eval")
        (model, *_) = models
        edited = {**model["edited"], **model.get("target", {})}
        return Scores(
            sha256=sha256,
            judge=_judge(data["judge"]),
            images=_count(data["n_images"]),
            settings=_settings(data["settings"]),
            unedited=_figures(model["baseline"]),
            edited=_figures(edited),
            concepts=(
                *_concepts(model["concepts"], ("forget", "retain")),
                *_concepts(model.get("near", {}), ("adjacent",)),
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise _no_results(path, "eval", fault) from fault


def read_attacks(path: Path, digest: str) -> Attacked:
    """The results of the attacks on the model with this digest.

    Raises:
        ForgetError: evidence.results: the file holds no results of ``forget attack``;
            evidence.other-model: they are of another model.
    """
    data, sha256 = _loaded(path, "attack")
    try:
        if data["model"]["digest"] != digest:
            raise _other_model(path, "attack")
        strongest = data["strongest"]
        return Attacked(
            sha256=sha256,
            judge=_judge(data["judge"]),
            settings=_settings(data["settings"]),
            resist=_figure(data, "resist"),
            strongest=f"{strongest['attack']} on {strongest['label']}" if strongest else "",
            rows=tuple(_attack(row) for row in data["attacks"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise _no_results(path, "attack", fault) from fault


def _loaded(path: Path, command: str) -> tuple[dict[str, Any], str]:
    """The object in a results file, and the file's digest."""
    try:
        raw = read_regular(path, json.LARGEST_FILE)
        data = json.decode(raw, nan=False)
    except (OSError, ValueError, ModelError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise _no_results(path, command, reason) from fault
    if not isinstance(data, dict) or data.get("command") != command:
        raise _no_results(path, command, f"it is not the output of forget {command}")
    return data, hashlib.sha256(raw).hexdigest()


def _no_results(path: Path, command: str, reason: object) -> ForgetError:
    return ForgetError(
        "evidence.results",
        f"{path} holds no results of forget {command}: {reason}",
        f"give its results.json, such as {EVALUATION if command == 'eval' else ATTACKS}",
    )


def _other_model(path: Path, command: str) -> ForgetError:
    return ForgetError(
        "evidence.other-model",
        f"{path} has the results of another model: no digest in it is that of this one",
        f"run forget {command} on this model",
    )


def _judge(data: Mapping[str, Any]) -> Judge:
    return Judge(
        name=str(data["name"]),
        digest=str(data.get("digest") or ""),
        errors=tuple(_judge_errors(data.get("accuracy") or {})),
    )


def _judge_errors(accuracy: Mapping[str, Any]) -> Iterator[JudgeError]:
    for images, row in accuracy.items():
        count = _count(row["n"])
        if count == 0:
            continue
        for kind, value in row.items():
            if kind != "n":
                wrong = round((1 - _in_unit(value)) * count)
                yield JudgeError(images, kind, Figure(wrong / count, wilson(wrong, count), count))


def _concepts(data: Mapping[str, Any], measures: Sequence[str]) -> Iterator[ConceptFigure]:
    """The figures of each concept, of the first of `measures` that it has."""
    for concept, sides in data.items():
        unedited, edited = sides["baseline"], sides["edited"]
        measure = next((name for name in measures if name in {*unedited, *edited}), None)
        if measure is not None:
            yield ConceptFigure(
                concept, measure, _figure(unedited, measure), _figure(edited, measure)
            )


def _attack(row: Mapping[str, Any]) -> AttackFigure:
    control, floor = row["unedited"], row["never-learned"]
    return AttackFigure(
        attack=str(row["attack"]),
        concept=str(row["concept"]),
        no_verdict=str(row["no_verdict"]),
        edited=_figure(row["edited"], "success"),
        control=_figure(control, "success") if control else None,
        floor=_figure(floor, "success") if floor else None,
        budget={str(key): _number(value) for key, value in row["edited"]["budget"].items()},
    )


def _figures(side: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {key: _figure(side, key) for key in MEASURES}
    return {key: figure for key, figure in figures.items() if figure is not None}


def _figure(side: Mapping[str, Any], key: str) -> Figure | None:
    """A measured share with its interval and n; None if it was not measured.

    Raises:
        ValueError, KeyError, TypeError: this is no such figure.
    """
    value = side.get(key)
    if value is None:
        return None
    low, high = side[f"{key}_ci"]
    return Figure(_in_unit(value), (_in_unit(low), _in_unit(high)), _count(side[f"{key}_n"]))


def _settings(data: Mapping[str, Any]) -> dict[str, str]:
    """Settings that were given, as text."""
    return {str(key): str(value) for key, value in data.items() if value is not None}


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _in_unit(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError(f"{value!r} is not a share from 0 to 1")
    return float(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= json.MOST_VALUES:
        raise ValueError(f"{value!r} is not a number of images")
    return value
