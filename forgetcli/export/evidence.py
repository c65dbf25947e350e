"""What is known about an edited model, for documents that are handed on: the ML-BOM and the
evidence page.

The scores and attacks are read from the results of ``forget eval`` and ``forget attack``. Such a
file may come from anyone: only figures with the right type and range are taken from it, and only if
the file names the digest of this model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact.card import History
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import SIGNATURE
from forgetcli.errors import ForgetError, ModelError
from forgetcli.evaluation.figure import Figure
from forgetcli.evaluation.intervals import wilson
from forgetcli.progress import Observer
from forgetcli.robustness import attacks as all_attacks
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


@dataclass(frozen=True)
class Evidence:
    """What is known about an edited model.

    Attributes:
        edited: the model; the digests of all its files have been checked.
        history: its base and the concepts of all its edits.
        scores: None without an evaluation of this model.
        attacks: None if no results of attacks on this model were given.
    """

    edited: EditedModel
    history: History
    scores: Scores | None
    attacks: Attacked | None

    @property
    def signed(self) -> bool:
        return (self.edited.folder / SIGNATURE).is_file()

    def missing(self) -> list[str]:
        """What was not measured, a sentence each."""
        return list(self._missing())

    def _missing(self) -> Iterator[str]:
        if self.scores is None:
            yield "No evaluation: how well the concepts are forgotten was not measured."
        else:
            if "adjacent" not in self.scores.edited:
                yield "Near concepts were not measured."
            if not self.scores.judge.errors:
                yield "The error rate of the judge is not known."
        if self.attacks is None:
            yield "No attack was run: nothing is known about hidden knowledge."
            return
        if all(row.control is None for row in self.attacks.rows):
            yield "The unedited model was not attacked, so no attack gives a verdict."
        elif self.attacks.resist is None:
            yield "No attack gives a verdict, so resistance to attacks is not known."
        if all(row.floor is None for row in self.attacks.rows):
            yield (
                "No model that never learned the concepts was attacked, so it was not measured "
                "what the attacks alone can generate."
            )
        not_run = [name for name in all_attacks.names() if name not in self.attacks.names]
        if not_run:
            yield f"Attacks that were not run: {', '.join(not_run)}."

    def not_claimed(self) -> list[str]:
        """What must not be concluded from the evidence, a sentence each."""
        origin = (
            "A signature is in the folder; it was not checked here."
            if self.signed
            else "The manifest is not signed, so the digests show accidents, not a forger."
        )
        scores = (
            "That other judges or prompts give the same scores. These are of one judge on the "
            "evaluation's prompts."
        )
        return [
            "That the concepts are gone from the weights. An edit changes what prompts lead to. "
            "Other wordings, optimised prompts, learned words, image prompts, adapters and further "
            "training may bring a concept back.",
            *([scores] if self.scores else []),
            f"Who made the edit. {origin}",
            "That the model is safe or lawful to use. All limitations and biases of the base model "
            "apply.",
        ]


def gather(
    edited: EditedModel, scores: Path | None, attacks: Path | None, observer: Observer
) -> Evidence:
    """Check the files of an edited model and read what was measured of it.

    Args:
        scores: ``results.json`` of ``forget eval``. Default: `EVALUATION`, if it is of this model.
        attacks: ``results.json`` of ``forget attack``. Default: `ATTACKS`, if it is of this model.
    Raises:
        ModelError: model.changed: a file differs from the manifest; the ledger is damaged.
        ForgetError: evidence.results: a file that the user named holds no such results;
            evidence.other-model: it has the results of another model.
    """
    observer.stage("checking")
    _ = edited.all_files
    history = History.read(edited)
    return Evidence(
        edited=edited,
        history=history,
        scores=_named_or_default(_scores, scores, EVALUATION, edited.digest, observer),
        attacks=_named_or_default(_attacked, attacks, ATTACKS, edited.digest, observer),
    )


def _named_or_default(
    read: Any, named: Path | None, default: Path, digest: str, observer: Observer
) -> Any:
    """What `read` returns for the file that the user named, or else for the default one.

    A default file that cannot be used is left out with a note: the user did not ask for it.
    """
    if named is not None:
        return read(named, digest)
    if not default.exists():
        return None
    try:
        return read(default, digest)
    except ForgetError as fault:
        observer.note(f"not used: {fault.message}")
        return None


def _scores(path: Path, digest: str) -> Scores:
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


def _attacked(path: Path, digest: str) -> Attacked:
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
