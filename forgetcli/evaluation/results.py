"""The result of an evaluation: the unedited model and the edited ones, with all scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forgetcli.artifact.weight_change import WeightChange
from forgetcli.display import Captioned, Result, Shown, percent
from forgetcli.evaluation.figure import NOTHING, Figure
from forgetcli.evaluation.judged import Answer, Run, Subject
from forgetcli.evaluation.measures import Quality
from forgetcli.evaluation.scores import Summary, matrix, summary
from forgetcli.evaluation.table import ScoreRow, rows

__all__ = ["Answer", "Evaluation", "Run", "ScoreRow", "Subject"]


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The unedited model and one or more edited models, judged at equal prompts and seeds.

    Attributes:
        judge: the judge's identity.
        baseline: images of the unedited model.
        edited: images of each edited model.
        settings: how the images were generated; see `EvaluationSettings.as_dict`.
        asked: which prompts were used, and the judge's settings: what an evaluation that repeats
            this one needs besides.
        seconds: time of each stage, and `total`.
        quality: image quality on the retained concepts, by the name of the edited model.
        weights: how far the weights moved, by the name of the edited model, where it is known.
        attacks: how far models resist attacks, by the digest of the edited model.
    """

    judge: Mapping[str, Any]
    baseline: Run
    edited: tuple[Run, ...]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    asked: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Quality] = field(default_factory=dict)
    weights: Mapping[str, WeightChange] = field(default_factory=dict)
    attacks: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All models, the unedited one first."""
        return (self.baseline, *self.edited)

    def rows(self) -> tuple[ScoreRow, ...]:
        """The table of scores: the unedited model, then every edited one."""
        return rows(self.baseline, self.edited, self.quality, self.attacks)

    def shown(self) -> Shown:
        rows = self.rows()
        line = "; ".join(
            f"{row.name}: forget {percent(row.scores.forget.value)}, "
            f"retain {percent(row.scores.retain.value)}, H {percent(row.scores.h.value)}"
            for row in rows[1:]
        )
        return Shown(
            line,
            ("model", "forget", "direct", "indirect", "retain", "H", "images"),
            tuple(_described(row) for row in rows),
            tuple(self._pairs()),
        )

    def _pairs(self) -> Iterator[Captioned]:
        """The first image pair of each concept, those to forget first."""
        run = self.edited[0]
        pairs = [
            (before, after)
            for before, after in zip(self.baseline.answers, run.answers)
            if not after.question.axis
        ]
        pairs.sort(key=lambda pair: pair[1].question.label not in run.subject.forgets)
        seen: set[str] = set()
        for before, after in pairs:
            question = after.question
            if question.label not in seen:
                seen.add(question.label)
                for answer, model in ((before, self.baseline), (after, run)):
                    yield Captioned(
                        answer.path,
                        f"{question.prompt} ({model.subject.name}: judged {answer.judged})",
                    )

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of ``eval --json`` and results.json.

        The top-level keys `baseline`, `edited`, `concepts`, `edit_prompts` and `quality` describe
        the first edited model.
        """
        summaries = [summary(self.baseline, run, self.resistance(run)) for run in self.edited]
        base = self.baseline.subject.base
        return {
            "judge": dict(self.judge),
            "n_images": sum(len({a.path for a in run.answers}) for run in self.runs),
            **summaries[0].as_dict(),
            "quality": self._quality(self.edited[0]),
            "models": [self._described(run, s) for run, s in zip(self.edited, summaries)],
            "base": {"id": base.id, "digest": base.digest},
            "matrix": matrix(self.runs).as_dict(),
            "settings": dict(self.settings),
            "asked": dict(self.asked),
            "seconds": dict(self.seconds),
        }

    def resistance(self, run: Run) -> Figure:
        """How far an edited model resists attacks; nothing if it was not attacked."""
        return self.attacks.get(run.subject.base.digest, NOTHING)

    def _described(self, run: Run, scored: Summary) -> dict[str, Any]:
        weights = self.weights.get(run.subject.name)
        described = {
            "name": run.subject.name,
            "digest": run.subject.base.digest,
            "recipe_sha256": run.subject.recipe_sha256,
            "forgets": sorted(run.subject.forgets),
            "quality": self._quality(run),
            "weight_change": weights.as_dict() if weights else None,
            **scored.as_dict(),
        }
        if run.subject.base.digest in self.attacks:
            described["edited"] |= self.resistance(run).as_dict("resist")
        return described

    def _quality(self, run: Run) -> dict[str, Any]:
        return self.quality.get(run.subject.name, Quality()).as_dict()


def _described(row: ScoreRow) -> tuple[str, ...]:
    scores = row.scores
    figures = (
        scores.forget,
        *(scores.forget_by_kind[kind] for kind in ("direct", "indirect")),
        scores.retain,
        scores.h,
    )
    return (row.name, *(_with_interval(figure) for figure in figures), str(scores.h.count))


def _with_interval(figure: Figure) -> str:
    low, high = (100 * end for end in figure.interval)
    return percent(figure.value) + ("" if figure.value is None else f" ({low:.0f}–{high:.0f})")
