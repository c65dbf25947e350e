"""Judges: one file each; a judge decides whether a concept is visible in a picture.

A judge is a module with ``load(device) -> judge``; the judge has

    identity() -> dict                      name, weight digest, accuracy: recorded with every result
    label(words) -> str | None              its own name for a concept, found by the words for it
    see(pictures, labels) -> list[Sight]    one question for each picture
"""
from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points

from forgetcli.errors import ForgetError


@dataclass(frozen=True)
class Sight:
    """A judge's answer: is the concept visible, what it took the picture for, and its probability of the concept."""

    seen: bool
    judged: str
    score: float


def names() -> list[str]:
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} | {p.name for p in entry_points(group="forgetcli.judges")})


def load(name: str, device: str | None = None):
    """The judge called `name`, ready to see.

    Raises:
        ForgetError: there is none.
    """
    if name not in names():
        near = get_close_matches(name, names(), 1)
        raise ForgetError("judge.unknown", f"there is no judge '{name}'",
                          f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names())}")
    for point in entry_points(group="forgetcli.judges"):
        if point.name == name:
            return point.load().load(device)
    return importlib.import_module(f"{__name__}.{name}").load(device)
