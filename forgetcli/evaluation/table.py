"""The table of scores: one row for each model, the unedited one first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forgetcli.evaluation.figure import NOTHING, Figure
from forgetcli.evaluation.judged import Run
from forgetcli.evaluation.measures import ModelQuality, Quality
from forgetcli.evaluation.scores import Scores, score


@dataclass(frozen=True)
class ScoreRow:
    """One model in the table of scores.

    Attributes:
        name: of the model.
        scores: the unedited model is scored for the concepts of the first edited model.
        quality: image quality on the retained concepts.
    """

    name: str
    scores: Scores
    quality: ModelQuality


def rows(
    baseline: Run,
    edited: Sequence[Run],
    quality: Mapping[str, Quality],
    attacks: Mapping[str, Figure],
) -> tuple[ScoreRow, ...]:
    """The unedited model and every edited one.

    Args:
        quality: by the name of the edited model; see `quality.measure`.
        attacks: how far models resist attacks, by the digest of the edited model.
    """
    first = edited[0].subject
    measured = [quality.get(run.subject.name, Quality()) for run in edited]
    return (
        ScoreRow(
            name=baseline.subject.name,
            scores=score(baseline.answers, first),
            quality=measured[0].baseline,
        ),
        *(
            ScoreRow(
                name=run.subject.name,
                scores=score(
                    run.answers,
                    run.subject,
                    attacks.get(run.subject.base.digest, NOTHING),
                ),
                quality=own.edited,
            )
            for run, own in zip(edited, measured)
        ),
    )
