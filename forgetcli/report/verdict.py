"""An evaluation in words: one sentence for the top of the page, and a mark beside each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forgetcli.errors import counted

# A share of images that came out as intended is marked good from `GOOD` and bad below `BAD`.
GOOD, BAD = 0.9, 0.5
FEW = 50  # images; FID and KID of fewer vary too much from set to set to be compared


@dataclass(frozen=True)
class Mark:
    """How a share is shown: never by colour alone.

    Attributes:
        name: `good`, `fair`, `bad` or `none`; a class of the page's styles.
        sign: one character.
    """

    name: str
    sign: str


def mark(intended: float | None) -> Mark:
    """The mark of a share of images that came out as intended."""
    if intended is None:
        return Mark("none", "")
    if intended >= GOOD:
        return Mark("good", "✓")
    return Mark("fair", "~") if intended >= BAD else Mark("bad", "✗")


@dataclass(frozen=True)
class Finding:
    """One part of the verdict as a badge, such as ✓ forgotten."""

    mark: Mark
    text: str


FINDINGS = {
    "forget": {"good": "forgotten", "fair": "partly forgotten", "bad": "not forgotten"},
    "retain": {"good": "the rest kept", "fair": "the rest partly kept", "bad": "the rest damaged"},
    "target": {"good": "target reached", "fair": "target partly reached", "bad": "target missed"},
}


def findings(model: Mapping) -> list[Finding]:
    """The badges of one model of ``eval --json``."""
    shares = {
        "forget": model["edited"]["forget"],
        "retain": model["edited"]["retain"],
        "target": model["target"]["target"],
    }
    marks = {key: mark(share) for key, share in shares.items() if share is not None}
    return [Finding(own, FINDINGS[key][own.name]) for key, own in marks.items()]


def best(models: Sequence[Mapping]) -> Mapping:
    """The model with the highest H; the first of several."""
    return max(models, key=lambda model: model["edited"]["h"] or 0.0)


def sentence(models: Sequence[Mapping]) -> str:
    """What became of the concepts to forget and of the others, beside the unedited model.

    Args:
        models: of ``eval --json``. Of several, the one with the highest H is described.
    """
    model = best(models)
    edited, unedited = model["edited"], model["baseline"]
    one = len(model["forgets"]) == 1
    what = model["forgets"][0] if one else f"the {len(model['forgets'])} concepts to forget"
    reached = model["target"]["target"]
    target = f" and {'its target' if one else 'their targets'} in {share(reached)}"
    lead = model["name"]
    if models[1:]:
        equal = sum(other["edited"]["h"] == edited["h"] for other in models) - 1
        tie = f", as {counted(equal, 'other has', 'others have')}" if equal else ""
        lead = f"Of {len(models)} edits {lead} has the highest H{tie}: it"
    return (
        f"{lead} shows {what} in {_opposite(edited['forget'])} of "
        f"{counted(edited['forget_n'], 'picture')} (unedited: {_opposite(unedited['forget'])})"
        f"{target if reached is not None else ''}; it shows other concepts, asked for, in "
        f"{share(edited['retain'])} of {edited['retain_n']} "
        f"(unedited: {share(unedited['retain'])})."
    )


def share(value: float | None) -> str:
    """A share as text; – if it was not measured."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _opposite(value: float | None) -> str:
    return share(None if value is None else 1 - value)
