"""The table of scores: one row for each model, the unedited one first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetcli.evaluation.judged import Run
from forgetcli.evaluation.scores import Scores, score

# Measures of an edited model's images against the unedited model's.
RELATIVE_MEASURES = ("distance", "fid", "kid")


@dataclass(frozen=True)
class ScoreRow:
    """One model in the table of scores.

    Attributes:
        name: of the model.
        scores: the unedited model is scored for the concepts of the first edited model.
        quality: image quality on the retained concepts, where it was measured. ``distance``,
            ``fid`` and ``kid`` to the unedited model's images (edited models only), and
            ``clip_score``. Each has `value`, `n`, and where there is one `ci`.
    """

    name: str
    scores: Scores
    quality: Mapping[str, Mapping[str, Any]]


def rows(
    baseline: Run, edited: Sequence[Run], quality: Mapping[str, Mapping[str, Any]]
) -> tuple[ScoreRow, ...]:
    """The unedited model and every edited one.

    Args:
        quality: by the name of the edited model; see `quality.measure`.
    """
    first = edited[0].subject
    measured = [quality.get(run.subject.name, {}) for run in edited]
    return (
        ScoreRow(
            name=baseline.subject.name,
            scores=score(baseline.answers, first),
            quality=_clip_score(measured[0], "baseline"),
        ),
        *(
            ScoreRow(
                name=run.subject.name,
                scores=score(run.answers, run.subject),
                quality={key: own[key] for key in RELATIVE_MEASURES if key in own}
                | _clip_score(own, "edited"),
            )
            for run, own in zip(edited, measured)
        ),
    )


def _clip_score(measured: Mapping[str, Any], side: str) -> dict[str, Mapping[str, Any]]:
    return {"clip_score": measured["clip_score"][side]} if "clip_score" in measured else {}
