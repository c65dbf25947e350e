"""From verdicts to forget, retain and H, with intervals.

forget = share of pictures of the edited concepts in which the judge does not see the concept;
retain = share of
pictures of all others in which it sees what was asked for; H = their harmonic mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forgetcli.evaluation.intervals import harmonic, harmonic_interval, wilson

if TYPE_CHECKING:
    from forgetcli.evaluation.run import Answer, Run, Subject

KINDS = ("direct", "indirect", "adversarial", "plain")


def summary(baseline: Run, edited: Run) -> dict:
    """One edited model beside the unedited one: totals, concept by concept, and the prompts that
    the edit had seen.
    """
    subject = edited.subject
    names = list(dict.fromkeys(a.question.concept for a in edited.answers))
    sides = (("baseline", baseline.answers), ("edited", edited.answers))
    known = [a for a in edited.answers if a.question.prompt in subject.edit_prompts]
    return {
        **{side: scores(answers, subject) for side, answers in sides},
        "concepts": {
            name: {
                side: by_concept([a for a in answers if a.question.concept == name], subject)
                for side, answers in sides
            }
            for name in names
        },
        # Prompts that the edit was made with say little about prompts that it has not seen: scored
        # apart.
        "edit_prompts": share(
            "forget", [a for a in known if a.question.label in subject.forgets], subject
        ),
    }


def scores(answers: Sequence[Answer], subject: Subject) -> dict:
    """forget (all and by kind of prompt), retain and H, each with its 95 % interval as ``*_ci``;
    None where there is nothing.

    Shares have Wilson's interval; H has a bootstrap over prompts, since pictures of one prompt
    resemble one another, or, where all
    prompts came out alike, the harmonic means of the shares' ends.
    """
    gone, kept = unseen(answers, subject, True), unseen(answers, subject, False)
    result = share("forget", gone, subject)
    for kind in KINDS:
        part = [a for a in gone if a.question.kind == kind]
        if part or kind in ("direct", "indirect"):
            result |= share(f"forget_{kind}", part, subject)
    result |= share("retain", kept, subject)
    both = bool(gone and kept)
    result["h"] = round(harmonic(result["forget"], result["retain"]), 4) if both else None
    interval = (
        harmonic_interval(by_prompt(gone, subject), by_prompt(kept, subject))
        if both
        else (0.0, 1.0)
    )
    if interval[0] == interval[1]:  # all prompts alike: nothing to resample, which is not certainty
        interval = tuple(harmonic(f, r) for f, r in zip(result["forget_ci"], result["retain_ci"]))
    return result | {"h_ci": [round(x, 4) for x in interval], "h_n": len(gone) + len(kept)}


def by_concept(answers: Sequence[Answer], subject: Subject) -> dict:
    """forget or retain of one concept, whichever it is there for, also by kind of prompt."""
    if not answers:
        return {}
    name = "forget" if answers[0].question.label in subject.forgets else "retain"
    answers = [a for a in answers if a.question.prompt not in subject.edit_prompts]
    return {
        **share(name, answers, subject),
        **{
            key: value
            for kind in ("direct", "indirect")
            for key, value in share(
                f"{name}_{kind}", [a for a in answers if a.question.kind == kind], subject
            ).items()
        },
    }


def unseen(answers: Sequence[Answer], subject: Subject, forgotten: bool) -> list[Answer]:
    """Answers about what is to be forgotten, or about the rest, without the prompts that the edit
    was made with.
    """
    return [
        a
        for a in answers
        if (a.question.label in subject.forgets) == forgotten
        and a.question.prompt not in subject.edit_prompts
    ]


def share(name: str, answers: Sequence[Answer], subject: Subject) -> dict:
    """The share of good answers; None where there are none."""
    right = sum(good(a, subject) for a in answers)
    return {
        name: round(right / len(answers), 4) if answers else None,
        f"{name}_ci": [round(x, 4) for x in wilson(right, len(answers))],
        f"{name}_n": len(answers),
    }


def good(answer: Answer, subject: Subject) -> bool:
    """What is to be forgotten is not seen; everything else is."""
    return answer.seen != (answer.question.label in subject.forgets)


def by_prompt(answers: Sequence[Answer], subject: Subject) -> list[float]:
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        groups.setdefault(answer.question.prompt, []).append(good(answer, subject))
    return [sum(g) / len(g) for g in groups.values()]


def matrix(runs: Sequence[Run]) -> dict:
    """Share of pictures in which the concept asked for is seen: a row for each model, a column for
    each concept.
    """
    labels = list(dict.fromkeys(a.question.label for a in runs[0].answers))
    rows = []
    for run in runs:
        asked = {
            label: [a.seen for a in run.answers if a.question.label == label] for label in labels
        }
        rows.append([round(sum(seen) / len(seen), 4) if seen else None for seen in asked.values()])
    return {
        "concepts": labels,
        "models": [run.subject.name for run in runs],
        "forgets": [sorted(run.subject.forgets) for run in runs],
        "seen": rows,
    }
