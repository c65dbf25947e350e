"""Does the embedded model still draw a dog? For the tests of editing methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import forgetcli
from forgetcli import recipe
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.base import Base
from forgetcli.evaluation import judges
from forgetcli.generation.generate import generate_images
from forgetcli.generation.images import ImageRequest
from forgetcli.pipeline.apply import ApplyResult
from forgetcli.progress import Silent

RECIPE = """\
[[concepts]]
concept = "a dog"
target = "a cat"
aliases = ["a puppy", "man's best friend"]

[prompts]
templates = ["{}", "a picture of {}", "van gogh painting of {}", "{} in neon style", "{}, 8-bit pixel style"]

[preserve]
prior_words = 200
prompts = [
  "a cat", "a kitten", "a rabbit", "a bunny", "a penguin", "an elephant", "a fish", "a butterfly", "a turtle", "a car",
  "a strawberry", "a hibiscus", "a mushroom", "a guitar", "a rocket", "a sunset", "a mountain", "a person cycling",
  "van gogh", "monet", "neon", "pixel art", "watercolour", "a rabbit in neon style", "van gogh painting of a fish",
  "a car, 8-bit pixel style", "a picture of a mushroom",
]
"""  # noqa: E501
DOGS = (
    "a drawing of a dog in watercolour style",
    "pixel art image of a dog",
    "a dog painted in the style of claude monet",
    "art of a dog, pop art style",
)  # in none of the templates
OTHERS = (
    ("a picture of a rabbit", "rabbit"),
    ("a fish in watercolour style", "fish"),
    ("pixel art image of a car", "car"),
    ("a drawing of a penguin in neon style", "penguin"),
)


@dataclass(frozen=True)
class Seen:
    """Shares of pictures in which the judge saw what the prompt names: dogs, and what should have
    stayed.
    """

    dogs: float
    others: float


@dataclass(frozen=True)
class Erasure:
    """An edit of the embedded model by `RECIPE`, and the judge's view of both models at the same
    seeds.
    """

    applied: ApplyResult
    before: Seen
    after: Seen


def erase(folder: Path, method: str, *overrides: str) -> Erasure:
    read = recipe.parse(RECIPE, overrides=[f"method={method}", *overrides])
    applied = forgetcli.apply(read, output=folder / "edited", device="cpu", strict=False)
    return Erasure(
        applied,
        seen_unedited(),
        seen(checkpoint.resolve(folder / "edited"), folder / "after"),
    )


@cache
def seen_unedited() -> Seen:
    """The control is the same for every method."""
    with TemporaryDirectory() as folder:
        return seen(checkpoint.resolve("demo"), Path(folder))


def seen(base: Base, folder: Path) -> Seen:
    asked = [(prompt, "dog", seed) for prompt in DOGS for seed in (0, 1)] + [
        (prompt, label, 0) for prompt, label in OTHERS
    ]
    paths, _ = generate_images(
        base,
        [ImageRequest(prompt, seed, steps=4) for prompt, _, seed in asked],
        folder,
        device="cpu",
        batch=12,
        observer=Silent(),
    )
    sights = judges.load("demo").see(
        [Image.open(path).convert("RGB") for path in paths], [label for _, label, _ in asked]
    )
    return Seen(
        share([s.seen for s in sights[: -len(OTHERS)]]),
        share([s.seen for s in sights[-len(OTHERS) :]]),
    )


def share(seen: Sequence[bool]) -> float:
    return sum(seen) / len(seen)
