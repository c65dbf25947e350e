"""Image pairs by concept, as the page shows them: what failed comes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.display import image_url
from forgetcli.evaluation.scores import counts, good

if TYPE_CHECKING:
    from forgetcli.evaluation import Answer, Question, Run, Subject

SHOWN = 16  # pairs of a concept on the page; the others are in the folder
LARGE = 640  # pixels; images at the top of the page


@dataclass(frozen=True)
class Pair:
    """Images of the unedited and the edited model at the same seed.

    Attributes:
        before, after: data URLs.
        good: whether the verdict is as intended.
        verdict: in words.
        alt_before, alt_after: prompt, model and verdict.
    """

    prompt: str
    kind: str
    seed: int
    before: str
    after: str
    good: bool
    verdict: str
    alt_before: str
    alt_after: str


@dataclass(frozen=True)
class Group:
    """The pairs of one concept.

    Attributes:
        forget: whether the model was edited to forget the concept.
        count: images that count in the scores; see `scores.counts`.
        failures: how many of those are not as intended.
        pairs: at most `SHOWN`, failures first.
    """

    label: str
    forget: bool
    count: int
    failures: int
    pairs: list[Pair]


def groups(baseline: Run, edited: Run) -> list[Group]:
    """Concepts with the largest share of failures first; otherwise in the order of the questions,
    those to forget before the others.
    """
    subject = edited.subject
    found = [_group(label, rows, subject) for label, rows in _by_label(baseline, edited).items()]
    return sorted(found, key=lambda g: (-g.failures / max(g.count, 1), not g.forget))


def first_pairs(baseline: Run, edited: Run) -> list[Pair]:
    """For the top of the page: the first pair of two concepts to forget and of one other.

    They are taken by their place, not by how well they look.
    """
    rows = _by_label(baseline, edited)
    forgets = edited.subject.forgets
    labels = [label for label in rows if label in forgets][:2]
    labels += [label for label in rows if label not in forgets][:1]
    return [_pair(*rows[label][0], edited.subject, LARGE) for label in labels]


def _by_label(baseline: Run, edited: Run) -> dict[str, list[tuple[Answer, Answer]]]:
    rows: dict[str, list[tuple[Answer, Answer]]] = {}
    for before, after in zip(baseline.answers, edited.answers):
        rows.setdefault(after.question.label, []).append((before, after))
    return rows


def _group(label: str, rows: list[tuple[Answer, Answer]], subject: Subject) -> Group:
    counted = [good(b, subject) for _, b in rows if counts(b.question, subject)]
    # What is scored apart comes last: the first pairs of a concept are the ones that count.
    rows = sorted(
        rows, key=lambda row: (not counts(row[1].question, subject), good(row[1], subject))
    )
    return Group(
        label=label,
        forget=label in subject.forgets,
        count=len(counted),
        failures=counted.count(False),
        pairs=[_pair(before, after, subject) for before, after in rows[:SHOWN]],
    )


def _pair(before: Answer, after: Answer, subject: Subject, side: int | None = None) -> Pair:
    prompt, verdict = after.question.prompt, _verdict(after, subject)
    return Pair(
        prompt=prompt,
        kind=after.question.kind + _apart(after.question, subject),
        seed=after.seed,
        before=image_url(before.path, side),
        after=image_url(after.path, side),
        good=good(after, subject),
        verdict=verdict,
        alt_before=f"“{prompt}” by the unedited model: judged {before.judged}",
        alt_after=f"“{prompt}” by {subject.name}: {verdict}",
    )


def _apart(question: Question, subject: Subject) -> str:
    """Why a question is scored apart; empty for one that counts."""
    if counts(question, subject):
        return ""
    if question.prompt in subject.edit_prompts:
        return ", used by the edit"
    forget = question.label in subject.forgets
    return ", shares the edit's words" if forget else ", names an erased concept"


def _verdict(answer: Answer, subject: Subject) -> str:
    label, judged = answer.question.label, answer.judged
    if label not in subject.forgets:
        return f"{label} is kept" if answer.seen else f"{label} is lost, judged {judged}"
    if answer.seen:
        return f"{label} is still seen"
    targets = [target for own, target in sorted(subject.targets) if own == label]
    if judged in targets:
        return f"{label} is gone, became its target {judged}"
    missed = f", not its target {' or '.join(targets)}" if targets else ""
    return f"{label} is gone, judged {judged}{missed}"
