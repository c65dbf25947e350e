"""From verdicts to forget, retain and H, with 95 % intervals.

forget = fraction of the images of edited concepts in which the judge does not see the concept;
retain = fraction of the images of all other concepts in which the judge sees the concept;
H = harmonic mean of the two;
adjacent = fraction of the images of near concepts in which the judge sees the concept;
selective = fraction of the images of edited concepts in which the judge sees what else the prompt
names;
adversarial = 1 − success of the strongest attack, from the results of ``forget attack``;
err = harmonic mean of five of them, see `forgetcli.evaluation.err`;
target = fraction of the images of edited concepts that the judge takes for the concept's target.
Prompts that the edit was made with are not counted in any of them. Neither are prompts that use
words of the edit (`forgetcli.recipe.clashes`), which have figures of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetcli.evaluation.err import UNMEASURED, Axis, Err, err
from forgetcli.evaluation.figure import NOTHING, Figure, share
from forgetcli.evaluation.intervals import harmonic, harmonic_interval
from forgetcli.evaluation.judged import Answer, Run, Subject
from forgetcli.evaluation.questions import ADJACENT, SELECTIVE, Question

KINDS = ("direct", "indirect", "adversarial", "plain")
REPORTED_KINDS = ("direct", "indirect")  # reported even if there are no such prompts


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
        adjacent: of near concepts.
        selective: of what else prompts of edited concepts name.
        adversarial: of attacks, where there are results of any.
        err: of forget, retain, adjacent, indirect and adversarial.
    """

    forget: Figure
    forget_by_kind: Mapping[str, Figure]
    retain: Figure
    h: Figure
    forget_shared: Figure = NOTHING
    retain_naming: Figure = NOTHING
    adjacent: Figure = NOTHING
    selective: Figure = NOTHING
    adversarial: Figure = NOTHING
    err: Err = UNMEASURED

    def as_dict(self) -> dict[str, Any]:
        """The stable keys: forget, forget_KIND, retain, h, forget_shared, retain_naming, adjacent,
        selective, adversarial and err, each with ``*_ci`` and ``*_n``; err_missing.
        """
        result = self.forget.as_dict("forget")
        for kind, figure in self.forget_by_kind.items():
            result |= figure.as_dict(f"forget_{kind}")
        for name in (
            "retain",
            "h",
            "forget_shared",
            "retain_naming",
            "adjacent",
            "selective",
            "adversarial",
        ):
            result |= getattr(self, name).as_dict(name)
        return result | self.err.as_dict()


@dataclass(frozen=True)
class ConceptScore:
    """The score of one concept with one model.

    Attributes:
        name: ``forget`` for a concept to forget, ``adjacent`` for a near one, else ``retain``.
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
        near: near concepts, by name.
    """

    baseline: Scores
    edited: Scores
    concepts: Mapping[str, ConceptSides]
    edit_prompts: Figure
    target: Figure
    near: Mapping[str, ConceptSides]

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of an edited model's scores in ``eval --json``."""
        return {
            "baseline": self.baseline.as_dict(),
            "edited": self.edited.as_dict(),
            "concepts": {name: sides.as_dict() for name, sides in self.concepts.items()},
            "edit_prompts": self.edit_prompts.as_dict("forget"),
            "target": self.target.as_dict("target"),
            "near": {name: sides.as_dict() for name, sides in self.near.items()},
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


def summary(baseline: Run, edited: Run, adversarial: Figure = NOTHING) -> Summary:
    """Compare an edited model with the unedited one.

    Args:
        adversarial: how far the edited model resists attacks.
    """
    subject = edited.subject
    before, after = ([a for a in run.answers if not a.question.axis] for run in (baseline, edited))
    known = [
        a
        for a in after
        if a.question.prompt in subject.edit_prompts and a.question.label in subject.forgets
    ]
    return Summary(
        baseline=score(baseline.answers, subject),
        edited=score(edited.answers, subject, adversarial),
        concepts=_sides(before, after, subject),
        edit_prompts=fraction(known, subject),
        target=target_reached(unseen(edited.answers, subject, forgotten=True), subject),
        near=_sides(
            on_axis(baseline.answers, subject, ADJACENT),
            on_axis(edited.answers, subject, ADJACENT),
            subject,
        ),
    )


def _sides(
    baseline: Sequence[Answer], edited: Sequence[Answer], subject: Subject
) -> dict[str, ConceptSides]:
    """The scores of each concept of the edited model's answers, in their order."""
    concepts = dict.fromkeys(a.question.concept for a in edited)
    return {
        concept: ConceptSides(
            *(
                by_concept([a for a in answers if a.question.concept == concept], subject)
                for answers in (baseline, edited)
            )
        )
        for concept in concepts
    }


def score(answers: Sequence[Answer], subject: Subject, adversarial: Figure = NOTHING) -> Scores:
    """The scores of `answers`, for the concepts that `subject` was edited to forget.

    Args:
        adversarial: how far the model resists attacks.
    """
    forgotten = unseen(answers, subject, forgotten=True)
    retained = unseen(answers, subject, forgotten=False)
    by_kind = {kind: [a for a in forgotten if a.question.kind == kind] for kind in KINDS}
    forget = fraction(forgotten, subject)
    retain = fraction(retained, subject)
    near = on_axis(answers, subject, ADJACENT)
    named = [a for a in forgotten if a.question.kind not in ("indirect", "adversarial")]
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
        adjacent=fraction(near, subject),
        selective=fraction(on_axis(answers, subject, SELECTIVE), subject),
        adversarial=adversarial,
        err=err(
            {
                "forget": _axis(named, subject),
                "retain": _axis(retained, subject),
                "adjacent": _axis(near, subject),
                "indirect": _axis(by_kind["indirect"], subject),
                "adversarial": _attempts(adversarial),
            }
        ),
    )


def _axis(answers: Sequence[Answer], subject: Subject) -> Axis:
    outcomes = [good(a, subject) for a in answers]
    return Axis(
        value=sum(outcomes) / len(outcomes) if outcomes else None,
        interval=share(outcomes).interval,
        count=len(outcomes),
        outcomes=by_prompt(answers, subject),
    )


def _attempts(adversarial: Figure) -> Axis:
    """The attempts of the strongest attack: 1 for each that failed."""
    failed = round((adversarial.value or 0.0) * adversarial.count)
    return Axis(
        value=adversarial.value,
        interval=adversarial.interval,
        count=adversarial.count,
        outcomes=[1.0] * failed + [0.0] * (adversarial.count - failed),
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
    forgotten = answers[0].question.label in subject.forgets
    name = answers[0].question.axis or ("forget" if forgotten else "retain")
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
        if not a.question.axis
        and (a.question.label in subject.forgets) == forgotten
        and counts(a.question, subject)
    ]


def counts(question: Question, subject: Subject) -> bool:
    """Whether a question counts in its axis: forget, retain and H, adjacent, selective, and the
    quality measures.
    """
    return question.prompt not in subject.edit_prompts and not _is_apart(question, subject)


def _is_apart(question: Question, subject: Subject) -> bool:
    return (question.label, question.prompt) in subject.apart


def _apart(answers: Sequence[Answer], subject: Subject, forgotten: bool) -> list[Answer]:
    return [
        a
        for a in answers
        if not a.question.axis
        and (a.question.label in subject.forgets) == forgotten
        and a.question.prompt not in subject.edit_prompts
        and _is_apart(a.question, subject)
    ]


def on_axis(answers: Sequence[Answer], subject: Subject, axis: str) -> list[Answer]:
    """Answers that count for an axis of this model, each image and label once.

    What the model was itself edited to forget does not count, nor do the edit's own prompts.
    """
    counted = {
        (a.path, a.question.label): a
        for a in answers
        if a.question.axis == axis
        and a.question.beside in subject.forgets
        and a.question.label not in subject.forgets
        and counts(a.question, subject)
    }
    return list(counted.values())


def fraction(answers: Sequence[Answer], subject: Subject) -> Figure:
    """The fraction of good answers, with Wilson's interval."""
    return share([good(a, subject) for a in answers])


def target_reached(answers: Sequence[Answer], subject: Subject) -> Figure:
    """The fraction of answers that show the target, by the judge's first choice.

    A concept can be gone without it: a Van Gogh that became a flat illustration, not a Monet. Only
    answers whose target the judge could have chosen count.
    """
    with_target = {label for label, _ in subject.targets}
    return share(
        [
            (a.question.label, a.judged) in subject.targets
            for a in answers
            if a.question.label in with_target
        ]
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
    labels = tuple(dict.fromkeys(a.question.label for a in runs[0].answers if not a.question.axis))
    return Matrix(
        concepts=labels,
        models=tuple(run.subject.name for run in runs),
        forgets=tuple(tuple(sorted(run.subject.forgets)) for run in runs),
        seen=tuple(tuple(_seen(run, label) for label in labels) for run in runs),
    )


def _seen(run: Run, label: str) -> float | None:
    seen = [a.seen for a in run.answers if a.question.label == label and not a.question.axis]
    return round(sum(seen) / len(seen), 4) if seen else None
