"""Rows of the table: a method's scores and the cost of its edit, for one recipe or pooled over
several recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forgetcli.evaluation import Answer, Evaluation, Run, Subject
from forgetcli.evaluation.figure import NOTHING, Figure
from forgetcli.evaluation.measures import Measure, ModelQuality, Quality
from forgetcli.evaluation.scores import Scores, score
from forgetcli.experiments.comparison.attacks import Tally, control_tallies, resistance, tallies
from forgetcli.experiments.comparison.attacks import pooled as pooled_tallies
from forgetcli.experiments.comparison.edits import Fault, MethodEdit
from forgetcli.robustness.results import Robustness

UNEDITED = "unedited"
UNMEASURED = ModelQuality()
COSTS = ("seconds", "peak_rss", "peak_gpu", "changed", "cache", "reused")


@dataclass(frozen=True)
class Row:
    """One method in the table. The unedited model has a row too.

    Attributes:
        seconds, peak_rss, peak_gpu, changed, cache, reused: see
            `forgetcli.experiments.comparison.edits.MethodEdit`.
        scores: the scores; None if the method failed.
        quality: quality measures of the images of retained concepts.
        fault: the reason why there is no edit.
        attacks: attack → what it brought back; empty if the method was not attacked.
    """

    name: str
    seconds: float | None = None
    peak_rss: int | None = None
    peak_gpu: int | None = None
    changed: float | None = None
    cache: Mapping[str, int] | None = None
    reused: bool = False
    scores: Scores | None = None
    quality: ModelQuality = UNMEASURED
    fault: Fault | None = None
    attacks: Mapping[str, Tally] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """The row as in ``compare --json``. Each score has its own key, as in ``eval --json``."""
        error = None
        if self.fault:
            error = {
                "code": self.fault.code,
                "message": self.fault.message,
                "hint": self.fault.hint,
            }
        return {
            "name": self.name,
            "seconds": self.seconds,
            "peak_rss": self.peak_rss,
            "peak_gpu": self.peak_gpu,
            "changed": self.changed,
            "cache": dict(self.cache) if self.cache else None,
            "reused": self.reused,
            **(self.scores.as_dict() if self.scores else {}),
            "quality": self.quality.as_dict(),
            "attacks": {name: tally.as_dict() for name, tally in self.attacks.items()},
            "error": error,
        }


def rows_of(
    control: MethodEdit,
    edits: Sequence[MethodEdit],
    evaluation: Evaluation | None,
    attacked: Mapping[str, Robustness],
) -> tuple[Row, ...]:
    """The rows of the unedited model and of every method.

    Args:
        control: the run of the method that changes nothing.
        edits: the edits of all methods.
        evaluation: the evaluation of the successful edits, in the order of `edits`; None if every
            method failed.
        attacked: what attacks brought back, by method; empty if none was attacked.
    """
    if evaluation is None:
        unedited = Row(UNEDITED, **_costs(control))
        return (unedited, *(Row(edit.method, fault=edit.fault) for edit in edits))
    first = evaluation.edited[0].subject
    unedited = Row(
        UNEDITED,
        **_costs(control),
        scores=score(evaluation.baseline.answers, first),
        quality=evaluation.quality.get(first.name, Quality()).baseline,
        attacks=next((control_tallies(own) for own in attacked.values()), {}),
    )
    runs = iter(evaluation.edited)
    rows = [unedited]
    for edit in edits:
        if edit.fault:
            rows.append(Row(edit.method, fault=edit.fault))
        else:
            run = next(runs)
            quality = evaluation.quality.get(run.subject.name, Quality())
            rows.append(_row_of(edit, run, quality.edited, attacked.get(edit.method)))
    return tuple(rows)


def _row_of(edit: MethodEdit, run: Run, quality: ModelQuality, attacked: Robustness | None) -> Row:
    return Row(
        edit.method,
        **_costs(edit),
        scores=score(run.answers, run.subject, resistance(attacked)),
        quality=quality,
        attacks=tallies(attacked) if attacked else {},
    )


def _costs(edit: MethodEdit) -> dict[str, Any]:
    return {key: getattr(edit, key) for key in COSTS}


@dataclass(frozen=True)
class RowPart:
    """A method's row for one recipe.

    Attributes:
        recipe: the recipe's name.
        row: the row.
        run: the images from which the scores were computed; None if there are no scores.
        subject: the edited model whose concepts the images are scored for.
    """

    recipe: str
    row: Row
    run: Run | None = None
    subject: Subject | None = None


def pooled(name: str, parts: Sequence[RowPart]) -> Row:
    """Pool a method's rows over several recipes.

    Shares are over all images, the interval of H is over all prompts. Seconds are the mean, memory
    is the maximum. A method that failed with one recipe has no pooled scores, because scores over
    fewer recipes would not be comparable.

    Args:
        parts: the method's row for each recipe.
    """
    failed = [(part.recipe, part.row.fault) for part in parts if part.row.fault]
    if failed:
        reasons = "; ".join(f"{recipe}: {fault.message}" for recipe, fault in failed)
        _, first = failed[0]
        fault = Fault(
            code=first.code,
            message=f"failed on {len(failed)} of {len(parts)} recipes: {reasons}",
            hint=first.hint,
        )
        return Row(name, fault=fault)
    rows = [part.row for part in parts]
    runs = [
        (part.recipe, part.run, part.subject)
        for part in parts
        if part.run is not None and part.subject is not None
    ]
    return Row(
        name,
        seconds=_mean([row.seconds for row in rows]),
        peak_rss=_largest([row.peak_rss for row in rows]),
        peak_gpu=_largest([row.peak_gpu for row in rows]),
        changed=_mean([row.changed for row in rows]),
        cache=_pooled_cache(rows),
        reused=all(row.reused for row in rows),
        scores=(_pooled_scores(runs, _weakest(rows)) if len(runs) == len(parts) else None),
        quality=_pooled_quality(rows),
        attacks=pooled_tallies([row.attacks for row in rows]),
    )


def _weakest(rows: Sequence[Row]) -> Figure:
    """The resistance to the strongest attack of any recipe; nothing if one was not attacked."""
    figures = [row.scores.adversarial for row in rows if row.scores is not None]
    values = [figure.value for figure in figures if figure.value is not None]
    if len(values) < len(rows):
        return NOTHING
    return min(figures, key=lambda figure: figure.value or 0.0)


def _pooled_cache(rows: Sequence[Row]) -> dict[str, int] | None:
    caches = [row.cache for row in rows if row.cache]
    if not caches:
        return None
    return {key: sum(cache[key] for cache in caches) for key in ("hits", "misses")}


def _pooled_scores(
    runs: Sequence[tuple[str, Run, Subject]], adversarial: Figure = NOTHING
) -> Scores:
    """The scores over all images.

    One recipe may forget a label that another recipe retains, so labels and prompts are prefixed
    with the name of their recipe.
    """
    answers: list[Answer] = []
    forgets: set[str] = set()
    edit_prompts: set[str] = set()
    apart: set[tuple[str, str]] = set()
    for recipe, run, subject in runs:
        for answer in run.answers:
            question = replace(
                answer.question,
                label=f"{recipe}: {answer.question.label}",
                prompt=f"{recipe}: {answer.question.prompt}",
                beside=f"{recipe}: {answer.question.beside}",
            )
            answers.append(replace(answer, question=question))
        forgets |= {f"{recipe}: {label}" for label in subject.forgets}
        edit_prompts |= {f"{recipe}: {prompt}" for prompt in subject.edit_prompts}
        apart |= {(f"{recipe}: {label}", f"{recipe}: {prompt}") for label, prompt in subject.apart}
    _, _, first = runs[0]
    pooled_subject = replace(
        first,
        forgets=frozenset(forgets),
        edit_prompts=frozenset(edit_prompts),
        apart=frozenset(apart),
    )
    return score(answers, pooled_subject, adversarial)


def _pooled_quality(rows: Sequence[Row]) -> ModelQuality:
    """Means over all images, without intervals. FID and KID describe one set of images, so they
    cannot be pooled.
    """
    return ModelQuality(
        distance=_pooled_measure([row.quality.distance for row in rows]),
        clip_score=_pooled_measure([row.quality.clip_score for row in rows]),
    )


def _pooled_measure(parts: Sequence[Measure | None]) -> Measure | None:
    """The mean over all images; None if a part was not measured."""
    measured = [part for part in parts if part is not None]
    if len(measured) < len(parts):
        return None
    count = sum(part.count for part in measured)
    total = sum(part.value * part.count for part in measured)
    return Measure(round(total / count, 5), count)


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    if len(measured) < len(values):
        return None
    return round(sum(measured) / len(measured), 6)


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
