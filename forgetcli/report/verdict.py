"""The verdict of an evaluation in words: a sentence for the top of the page, marks for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forgetcli.errors import counted

# A share of images that are as intended is marked good if it is at least `GOOD`, and bad if it is
# below `BAD`.
GOOD = 0.9
BAD = 0.5
FEW = 50  # images; with fewer, FID and KID vary too much between sets of images to be compared


@dataclass(frozen=True)
class Mark:
    """The mark of a share. It has a sign, because colour alone is not accessible.

    Attributes:
        name: ``good``, ``fair``, ``bad`` or ``none``; also a CSS class of the page.
        sign: one character; empty for ``none``.
    """

    name: str
    sign: str


def mark(intended: float | None) -> Mark:
    """The mark for a share of images that are as intended."""
    if intended is None:
        return Mark("none", "")
    if intended >= GOOD:
        return Mark("good", "✓")
    if intended >= BAD:
        return Mark("fair", "~")
    return Mark("bad", "✗")


@dataclass(frozen=True)
class Finding:
    """One part of the verdict as a badge, such as ✓ forgotten."""

    mark: Mark
    text: str


FINDINGS = {
    "forget": {"good": "forgotten", "fair": "partly forgotten", "bad": "not forgotten"},
    "retain": {"good": "the rest kept", "fair": "the rest partly kept", "bad": "the rest damaged"},
    "target": {"good": "target reached", "fair": "target partly reached", "bad": "target missed"},
    "resist": {
        "good": "attacks withstood",
        "fair": "attacks partly withstood",
        "bad": "hidden, not gone: an attack brings it back",
    },
}


def findings(model: Mapping) -> list[Finding]:
    """The badges of one model of ``eval --json``."""
    shares = {
        "forget": model["edited"]["forget"],
        "retain": model["edited"]["retain"],
        "target": model["target"]["target"],
        "resist": model["edited"].get("resist"),
    }
    marks = {key: mark(share) for key, share in shares.items() if share is not None}
    return [Finding(mark, FINDINGS[key][mark.name]) for key, mark in marks.items()]


def best(models: Sequence[Mapping]) -> Mapping:
    """The model with the highest H, or the first of several."""
    return max(models, key=lambda model: model["edited"]["h"] or 0.0)


def sentence(models: Sequence[Mapping]) -> str:
    """A sentence on how often the edited and the unedited model show which concepts.

    Args:
        models: the models of ``eval --json``. The sentence is on the model with the highest H.
    """
    model = best(models)
    edited = model["edited"]
    unedited = model["baseline"]
    subject = model["name"]
    if len(models) > 1:
        equal = sum(other["edited"]["h"] == edited["h"] for other in models) - 1
        tie = f", as {counted(equal, 'other has', 'others have')}" if equal else ""
        subject = f"Of {len(models)} edits, {subject} has the highest H{tie}: it"
    if len(model["forgets"]) == 1:
        forgotten = model["forgets"][0]
        targets = "its target"
    else:
        forgotten = f"the {len(model['forgets'])} concepts to forget"
        targets = "their targets"
    reached = model["target"]["target"]
    target = "" if reached is None else f" and {targets} in {share(reached)}"
    return (
        f"{subject} shows {forgotten} in {_opposite(edited['forget'])} of "
        f"{counted(edited['forget_n'], 'image')} (unedited: {_opposite(unedited['forget'])})"
        f"{target}; it shows retained concepts in {share(edited['retain'])} of "
        f"{counted(edited['retain_n'], 'image')} (unedited: {share(unedited['retain'])})."
        f"{_attacked(edited)}"
    )


def _attacked(edited: Mapping) -> str:
    """What the strongest attack did, as a further sentence; empty if it was not measured."""
    if edited.get("resist") is None:
        return ""
    attempts = counted(edited["resist_n"], "attempt")
    return f" The strongest attack brings it back in {_opposite(edited['resist'])} of {attempts}."


def share(value: float | None) -> str:
    """A share in per cent; "–" if it was not measured."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _opposite(value: float | None) -> str:
    return share(None if value is None else 1 - value)
