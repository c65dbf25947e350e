"""The embedded model, a small latent diffusion pipeline for things × styles, and its judge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tomli

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model"
JUDGE = FOLDER / "judge"
DESCRIPTION = "41 things in 10 art styles, 64×64, trained from scratch on openly licensed drawings"


@cache
def world() -> dict:
    """Words, hints and groups of everything that the embedded model knows (world.toml)."""
    # Not the standard library's, which takes ten times as long: every check of a recipe reads it.
    return tomli.loads((FOLDER / "world.toml").read_text(encoding="utf-8"))


def label_of(words: str, name: str | None = None) -> str | None:
    """The embedded judge's label of a thing or style, by any of its names, with or without an
    article. None if it knows none of that name.

    Args:
        words: the concept in words.
        name: tried first: a recipe's `label`.
    """
    for given in (name, words):
        requested = (given or "").casefold().replace("_", " ").strip()
        if requested in _labels():
            return _labels()[requested]
    return None


@cache
def _labels() -> dict[str, str]:
    """What a thing or a style is called → its label; of two with one name, the first."""
    labels: dict[str, str] = {}
    for group in ("things", "styles"):
        for label, entry in world()[group].items():
            for name in _names(label, entry["names"]):
                labels.setdefault(name, str(label))
    return labels


def _names(label: str, names: Sequence[str]) -> set[str]:
    """Everything that a concept is called, in lower case."""
    bare = [name.removeprefix(article) for name in names for article in ("a ", "an ", "the ")]
    return {name.casefold() for name in (label.replace("_", " "), *names, *bare)}
