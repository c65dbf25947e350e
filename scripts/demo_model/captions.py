"""Captions: words for a thing, a style or both, in varying forms; and what is kept out of training
for evaluation.

Kept out (written to heldout.json beside the weights): `heldout` words and templates of world.toml,
one drawing cell
(thing × style) in ten, and one pair of hint × style or hint × thing in five.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from drawings import STYLES, THINGS, WORLD

TEMPLATES = WORLD["templates"]
WEIGHTS = np.array([WORLD["styles"][s].get("weight", 1.0) for s in STYLES])


def chosen(share: float, *words: str) -> bool:
    """A fixed pseudo-random choice, the same on every machine."""
    digest = hashlib.sha256("|".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def cell_is_heldout(thing: str, style: str) -> bool:
    return style != "flat" and chosen(
        0.08, "cell", thing, style
    )  # flat is what a prompt without style shows


def pair_is_heldout(hint: str, other: str) -> bool:
    return chosen(0.2, "pair", hint, other)


def pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def hints_allowed(hints, other: str) -> list[str]:
    return [h for h in hints if not pair_is_heldout(h, other)] or list(hints[:1])


def kept_out(hints, other: str) -> list[list[str]]:
    allowed = hints_allowed(hints, other)
    return [[hint, other] for hint in hints if hint not in allowed]


def caption(rng: np.random.Generator, thing: str, style: str) -> tuple[str, str | None]:
    """A training caption for a picture of `thing` in `style`; also the thing it calls up instead (a
    hint's motif).
    """
    t, s = WORLD["things"][thing], WORLD["styles"][style]
    form = rng.random()
    if form < 0.10:  # names no style: only flat drawings are shown so
        words = t["names"] if rng.random() < 0.5 else t["hints"]
        return pick(rng, TEMPLATES["thing"]).format(t=pick(rng, words)), "flat"
    if form < 0.20:  # names no thing
        if rng.random() < 0.5:
            return pick(rng, TEMPLATES["style"]).format(s=pick(rng, s["names"])), None
        return pick(rng, s["hints"]), None
    thing_words = t["names"] if rng.random() < 0.5 else hints_allowed(t["hints"], style)
    if form < 0.60:
        return pick(rng, TEMPLATES["both"]).format(
            t=pick(rng, thing_words), s=pick(rng, s["names"])
        ), None
    hint = pick(rng, hints_allowed(s["hints"], thing))
    return pick(rng, TEMPLATES["hinted"]).format(t=pick(rng, thing_words), s=hint), None


def names_of(name: str) -> list[str]:
    """What this thing or style is called, each without its article and within blanks."""
    group = "things" if name in THINGS else "styles"
    return [f" {re.sub('^(a|an|the) ', '', text)} " for text in WORLD[group][name]["names"]]


def sample(rng: np.random.Generator, without: frozenset[str] = frozenset()) -> tuple[str, str, str]:
    """(caption, thing, style) of one training example; held-out cells never occur, and neither does
    what is in `without`: not in the picture and not in the caption, as a name or as a hint.
    """
    unsaid = [words for name in without for words in names_of(name)]
    while True:
        thing, style = (
            pick(rng, THINGS),
            STYLES[int(rng.choice(len(STYLES), p=WEIGHTS / WEIGHTS.sum()))],
        )
        text, shown = caption(rng, thing, style)
        style = shown or style
        motif = WORLD["styles"][style].get("motif", {}).get(text)
        if motif and rng.random() < 0.7:
            thing = motif
        if cell_is_heldout(thing, style) or {thing, style} & without:
            continue
        if not any(words in f" {text} " for words in unsaid):
            return text, thing, style


def heldout() -> dict:
    """Everything that training never shows, for evaluation."""
    return {
        "cells": [[t, s] for t in THINGS for s in STYLES if cell_is_heldout(t, s)],
        "pairs": [
            p for t in THINGS for s in STYLES for p in kept_out(WORLD["things"][t]["hints"], s)
        ]
        + [p for s in STYLES for t in THINGS for p in kept_out(WORLD["styles"][s]["hints"], t)],
        "templates": TEMPLATES["heldout"] + TEMPLATES["heldout_hinted"],
        "words": {k: WORLD[g][k]["heldout"] for g in ("things", "styles") for k in WORLD[g]},
    }
