"""Rows of the table: a method's scores beside what its edit took; and the same over several
recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from forgetcli.evaluation import Evaluation, Run, Subject
from forgetcli.evaluation.scores import scores
from forgetcli.experiments.comparison.edits import Edited, Fault

UNEDITED = "unedited"
CONTROL = "none"  # the method that changes nothing


@dataclass(frozen=True)
class Row:
    """One method in the table; the unedited model is one too.

    Attributes:
        seconds, peak_rss, peak_gpu, changed, cache, reused: see
            `forgetcli.experiments.comparison.edits.Edited`.
        scores: forget, forget_direct, forget_indirect, retain, h, each with ``*_ci`` and ``*_n``;
            empty if it failed.
        quality: of the pictures that should stay: ``distance`` to the unedited model's and what
            else was measured,
            ``clip_score``; each {value, n} and where there is one, ci.
        fault: why there is no edit.
    """

    name: str
    seconds: float | None = None
    peak_rss: int | None = None
    peak_gpu: int | None = None
    changed: float | None = None
    cache: Mapping[str, int] | None = None
    reused: bool = False
    scores: Mapping[str, object] = field(default_factory=dict)
    quality: Mapping[str, Mapping] = field(default_factory=dict)
    fault: Fault | None = None

    def as_dict(self) -> dict:
        """`scores` are keys of their own, as in ``eval``."""
        error = (
            {"code": self.fault.code, "message": self.fault.message, "hint": self.fault.hint}
            if self.fault
            else None
        )
        return {
            "name": self.name,
            "seconds": self.seconds,
            "peak_rss": self.peak_rss,
            "peak_gpu": self.peak_gpu,
            "changed": self.changed,
            "cache": dict(self.cache) if self.cache else None,
            "reused": self.reused,
            **self.scores,
            "quality": dict(self.quality),
            "error": error,
        }


def rows_of(
    control: Edited, edits: Sequence[Edited], evaluation: Evaluation | None
) -> tuple[Row, ...]:
    """The unedited model and every method.

    Args:
        evaluation: of the edits that did not fail, in their order; None if all did.
    """
    runs = iter(evaluation.edited if evaluation else ())
    found = {edit.method: next(runs) for edit in edits if edit.fault is None}
    quality = {
        method: evaluation.quality.get(run.subject.name, {}) for method, run in found.items()
    }
    first = next(iter(found.values()), None)
    unedited = Row(
        UNEDITED,
        **_took(control),
        scores=scores(evaluation.baseline.answers, first.subject) if first else {},
        quality=_clip(next(iter(quality.values()), {}), "baseline"),
    )
    return (
        unedited,
        *(
            Row(edit.method, fault=edit.fault)
            if edit.fault
            else Row(
                edit.method,
                **_took(edit),
                scores=scores(found[edit.method].answers, found[edit.method].subject),
                quality={
                    key: quality[edit.method][key]
                    for key in ("distance", "fid", "kid")
                    if key in quality[edit.method]
                }
                | _clip(quality[edit.method], "edited"),
            )
            for edit in edits
        ),
    )


def _took(edit: Edited) -> dict:
    return {
        key: getattr(edit, key)
        for key in ("seconds", "peak_rss", "peak_gpu", "changed", "cache", "reused")
    }


def _clip(quality: Mapping, side: str) -> dict:
    return {"clip_score": quality["clip_score"][side]} if "clip_score" in quality else {}


def pooled(name: str, parts: Sequence[tuple[str, Row, Run | None, Subject | None]]) -> Row:
    """One row over several recipes: shares over all pictures, H's interval over all prompts, mean
    seconds, largest memory.

    A method that failed with one of them has no pooled scores: over fewer recipes they would not
    compare.

    Args:
        parts: for each recipe its name, the method's row, its pictures, and the edited model whose
            concepts they are scored for.
    """
    missing = [f"{recipe}: {row.fault.message}" for recipe, row, *_ in parts if row.fault]
    if missing:
        first = next(row.fault for _, row, *_ in parts if row.fault)
        return Row(
            name,
            fault=Fault(
                first.code,
                f"failed on {len(missing)} of {len(parts)} recipes: {'; '.join(missing)}",
                first.hint,
            ),
        )
    rows = [row for _, row, *_ in parts]
    runs = [(recipe, run, subject) for recipe, _, run, subject in parts if run and subject]
    caches = [row.cache for row in rows if row.cache]
    return Row(
        name,
        seconds=_mean([row.seconds for row in rows]),
        peak_rss=_largest([row.peak_rss for row in rows]),
        peak_gpu=_largest([row.peak_gpu for row in rows]),
        changed=_mean([row.changed for row in rows]),
        cache={key: sum(cache[key] for cache in caches) for key in ("hits", "misses")}
        if caches
        else None,
        reused=all(row.reused for row in rows),
        scores=_pooled_scores(runs) if len(runs) == len(parts) else {},
        quality=_pooled_quality(rows),
    )


def _pooled_scores(runs: Sequence[tuple[str, Run, Subject]]) -> dict:
    """`scores` of all pictures. A label may be forgotten under one recipe and kept under another,
    so each is its recipe's own.
    """
    answers, forgets, seen = [], set(), set()
    for recipe, run, subject in runs:
        own = f"{recipe}: {{}}".format
        answers += [
            replace(
                a,
                question=replace(
                    a.question, label=own(a.question.label), prompt=own(a.question.prompt)
                ),
            )
            for a in run.answers
        ]
        forgets |= {own(label) for label in subject.forgets}
        seen |= {own(prompt) for prompt in subject.edit_prompts}
    return scores(
        answers, replace(runs[0][2], forgets=frozenset(forgets), edit_prompts=frozenset(seen))
    )


def _pooled_quality(rows: Sequence[Row]) -> dict:
    """Means over all pictures, without an interval; FID and KID are figures of one set and cannot
    be pooled.
    """
    found = {}
    for key in ("distance", "clip_score"):
        parts = [row.quality[key] for row in rows if key in row.quality]
        if len(parts) == len(rows):
            count = sum(part["n"] for part in parts)
            found[key] = {
                "value": round(sum(part["value"] * part["n"] for part in parts) / count, 5),
                "n": count,
            }
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else round(sum(values) / len(values), 6)


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
