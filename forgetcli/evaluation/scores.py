"""From verdicts to forget, retain and H, with 95 % intervals.

forget = fraction of the images of edited concepts in which the judge does not see the concept;
retain = fraction of the images of all other concepts in which the judge sees the concept;
H = harmonic mean of the two;
target = fraction of the images of edited concepts that the judge takes for the concept's target.
Prompts that the edit was made with are not counted in any of them. Neither are prompts that use
words of the edit (`forgetcli.recipe.clashes`), which have figures of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetcli.evaluation.intervals import harmonic, harmonic_interval, wilson
from forgetcli.evaluation.judged import Answer, Run, Subject
from forgetcli.evaluation.questions import Question

KINDS = ("direct", "indirect", "adversarial", "plain")
REPORTED_KINDS = ("direct", "indirect")  # reported even if there are no such prompts


@dataclass(frozen=True)
class Figure:
    """A measured value with its interval. All numbers are rounded to four decimals.

    Attributes:
        value: from 0 to 1. None if nothing was measured.
        interval: the 95 % interval; (0, 1) if nothing was measured.
        count: the number of images.
    """

    value: float | None
    interval: tuple[float, float]
    count: int

    def as_dict(self, name: str) -> dict[str, Any]:
        """The stable keys of a figure called `name`."""
        return {name: self.value, f"{name}_ci": list(self.interval), f"{name}_n": self.count}


@dataclass(frozen=True)
class Scores:
    """The scores of one model's images.

    Attributes:
        forget: over all kinds of prompts.
        forget_by_kind: by kind of prompt; ``direct`` and ``indirect`` are always there.
        retain: over all kinds of prompts.
        h: the harmonic mean of forget and retain.
        forget_shared: forget on indirect prompts that share words with what was edited.
        retain_naming: retain on prompts that name a concept to forget.
    """

    forget: Figure
    forget_by_kind: Mapping[str, Figure]
    retain: Figure
    h: Figure
    forget_shared: Figure
    retain_naming: Figure

    def as_dict(self) -> dict[str, Any]:
        """The stable keys: forget, forget_KIND, retain, h, forget_shared and retain_naming, each
        with ``*_ci`` and ``*_n``.
        """
        result = self.forget.as_dict("forget")
        for kind, figure in self.forget_by_kind.items():
            result |= figure.as_dict(f"forget_{kind}")
        result |= self.retain.as_dict("retain") | self.h.as_dict("h")
        result |= self.forget_shared.as_dict("forget_shared")
        return result | self.retain_naming.as_dict("retain_naming")


@dataclass(frozen=True)
class ConceptScore:
    """The score of one concept with one model.

    Attributes:
        name: ``forget`` for a concept to forget, else ``retain``.
        figure: over all kinds of prompts.
        by_kind: for each of `REPORTED_KINDS`.
        target: see `target_reached`; None for a retained concept.
    """

    name: str
    figure: Figure
    by_kind: Mapping[str, Figure]
    target: Figure | None = None

    def as_dict(self) -> dict[str, Any]:
        """The stable keys: NAME and NAME_KIND, each with ``*_ci`` and ``*_n``."""
        result = self.figure.as_dict(self.name)
        for kind, figure in self.by_kind.items():
            result |= figure.as_dict(f"{self.name}_{kind}")
        return result | (self.target.as_dict("target") if self.target else {})


@dataclass(frozen=True)
class ConceptSides:
    """One concept's scores with both models; None for a model without images of it."""

    baseline: ConceptScore | None
    edited: ConceptScore | None

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of a concept."""
        return {
            "baseline": self.baseline.as_dict() if self.baseline else {},
            "edited": self.edited.as_dict() if self.edited else {},
        }


@dataclass(frozen=True)
class Summary:
    """An edited model compared with the unedited one.

    Attributes:
        baseline: scores of the unedited model, for the concepts of the edited one.
        edited: scores of the edited model.
        concepts: by the concept's name.
        edit_prompts: forget on the prompts that the edit was made with. They say little about other
            prompts, so they have a score of their own.
        target: over all concepts to forget; see `target_reached`.
    """

    baseline: Scores
    edited: Scores
    concepts: Mapping[str, ConceptSides]
    edit_prompts: Figure
    target: Figure

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of an edited model's scores in ``eval --json``."""
        return {
            "baseline": self.baseline.as_dict(),
            "edited": self.edited.as_dict(),
            "concepts": {name: sides.as_dict() for name, sides in self.concepts.items()},
            "edit_prompts": self.edit_prompts.as_dict("forget"),
            "target": self.target.as_dict("target"),
        }


@dataclass(frozen=True)
class Matrix:
    """The fraction of images in which the requested concept is seen, by model and concept.

    Attributes:
        forgets: the concepts that each model was edited to forget.
        seen: a row for each of `models`, a column for each of `concepts`; None without images.
    """

    concepts: tuple[str, ...]
    models: tuple[str, ...]
    forgets: tuple[tuple[str, ...], ...]
    seen: tuple[tuple[float | None, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `matrix` in ``eval --json``."""
        return {
            "concepts": list(self.concepts),
            "models": list(self.models),
            "forgets": [list(row) for row in self.forgets],
            "seen": [list(row) for row in self.seen],
        }


def summary(baseline: Run, edited: Run) -> Summary:
    """Compare an edited model with the unedited one."""
    subject = edited.subject
    concepts = dict.fromkeys(a.question.concept for a in edited.answers)
    known = [
        a
        for a in edited.answers
        if a.question.prompt in subject.edit_prompts and a.question.label in subject.forgets
    ]
    return Summary(
        baseline=score(baseline.answers, subject),
        edited=score(edited.answers, subject),
        concepts={
            concept: ConceptSides(
                *(
                    by_concept([a for a in run.answers if a.question.concept == concept], subject)
                    for run in (baseline, edited)
                )
            )
            for concept in concepts
        },
        edit_prompts=fraction(known, subject),
        target=target_reached(unseen(edited.answers, subject, forgotten=True), subject),
    )


def score(answers: Sequence[Answer], subject: Subject) -> Scores:
    """The scores of `answers`, for the concepts that `subject` was edited to forget."""
    forgotten = unseen(answers, subject, forgotten=True)
    retained = unseen(answers, subject, forgotten=False)
    by_kind = {kind: [a for a in forgotten if a.question.kind == kind] for kind in KINDS}
    forget = fraction(forgotten, subject)
    retain = fraction(retained, subject)
    return Scores(
        forget=forget,
        forget_by_kind={
            kind: fraction(part, subject)
            for kind, part in by_kind.items()
            if part or kind in REPORTED_KINDS
        },
        retain=retain,
        h=_harmonic_figure(
            forget, retain, by_prompt(forgotten, subject), by_prompt(retained, subject)
        ),
        forget_shared=fraction(_apart(answers, subject, forgotten=True), subject),
        retain_naming=fraction(_apart(answers, subject, forgotten=False), subject),
    )


def _harmonic_figure(
    forget: Figure,
    retain: Figure,
    forget_by_prompt: Sequence[float],
    retain_by_prompt: Sequence[float],
) -> Figure:
    """H, with a bootstrap interval over prompts, because images of one prompt are alike."""
    count = forget.count + retain.count
    if forget.value is None or retain.value is None:
        return Figure(None, (0.0, 1.0), count)
    low, high = harmonic_interval(forget_by_prompt, retain_by_prompt)
    if low == high:
        # All prompts have the same outcome, so that resampling shows no spread. That is not
        # certainty: Wilson's intervals of both fractions give the bounds.
        low, high = (harmonic(f, r) for f, r in zip(forget.interval, retain.interval))
    return Figure(
        value=round(harmonic(forget.value, retain.value), 4),
        interval=(round(low, 4), round(high, 4)),
        count=count,
    )


def by_concept(answers: Sequence[Answer], subject: Subject) -> ConceptScore | None:
    """Forget or retain of one concept, also by kind of prompt; None without answers."""
    if not answers:
        return None
    name = "forget" if answers[0].question.label in subject.forgets else "retain"
    answers = [a for a in answers if counts(a.question, subject)]
    by_kind = {
        kind: fraction([a for a in answers if a.question.kind == kind], subject)
        for kind in REPORTED_KINDS
    }
    target = target_reached(answers, subject) if name == "forget" else None
    return ConceptScore(name, fraction(answers, subject), by_kind, target)


def unseen(answers: Sequence[Answer], subject: Subject, forgotten: bool) -> list[Answer]:
    """Answers for prompts that the edit was not made with, and that use none of its words.

    Args:
        forgotten: for the concepts to forget, or for all others.
    """
    return [
        a
        for a in answers
        if (a.question.label in subject.forgets) == forgotten and counts(a.question, subject)
    ]


def counts(question: Question, subject: Subject) -> bool:
    """Whether a question counts in forget, retain and H, and in the quality measures."""
    return question.prompt not in subject.edit_prompts and not _is_apart(question, subject)


def _is_apart(question: Question, subject: Subject) -> bool:
    return (question.label, question.prompt) in subject.apart


def _apart(answers: Sequence[Answer], subject: Subject, forgotten: bool) -> list[Answer]:
    return [
        a
        for a in answers
        if (a.question.label in subject.forgets) == forgotten
        and a.question.prompt not in subject.edit_prompts
        and _is_apart(a.question, subject)
    ]


def fraction(answers: Sequence[Answer], subject: Subject) -> Figure:
    """The fraction of good answers, with Wilson's interval."""
    return _share([good(a, subject) for a in answers])


def target_reached(answers: Sequence[Answer], subject: Subject) -> Figure:
    """The fraction of answers that show the target, by the judge's first choice.

    A concept can be gone without it: a Van Gogh that became a flat illustration, not a Monet. Only
    answers whose target the judge could have chosen count.
    """
    with_target = {label for label, _ in subject.targets}
    return _share(
        [
            (a.question.label, a.judged) in subject.targets
            for a in answers
            if a.question.label in with_target
        ]
    )


def _share(outcomes: Sequence[bool]) -> Figure:
    """The fraction that is true, with Wilson's interval."""
    count = len(outcomes)
    successes = sum(outcomes)
    low, high = wilson(successes, count)
    return Figure(
        value=round(successes / count, 4) if count else None,
        interval=(round(low, 4), round(high, 4)),
        count=count,
    )


def good(answer: Answer, subject: Subject) -> bool:
    """Whether the verdict is as it should be: concepts to forget are not seen, all others are."""
    return answer.seen != (answer.question.label in subject.forgets)


def by_prompt(answers: Sequence[Answer], subject: Subject) -> list[float]:
    """The fraction of good answers of each prompt."""
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        groups.setdefault(answer.question.prompt, []).append(good(answer, subject))
    return [sum(group) / len(group) for group in groups.values()]


def matrix(runs: Sequence[Run]) -> Matrix:
    """Fraction of images in which the requested concept is seen, for each model and concept."""
    labels = tuple(dict.fromkeys(a.question.label for a in runs[0].answers))
    return Matrix(
        concepts=labels,
        models=tuple(run.subject.name for run in runs),
        forgets=tuple(tuple(sorted(run.subject.forgets)) for run in runs),
        seen=tuple(tuple(_seen(run, label) for label in labels) for run in runs),
    )


def _seen(run: Run, label: str) -> float | None:
    seen = [a.seen for a in run.answers if a.question.label == label]
    return round(sum(seen) / len(seen), 4) if seen else None
