"""From which images `inversion` learns its word."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from forgetcli.robustness.attacks import inversion


class Asked(Exception):
    """The images were asked for: the attack goes no further."""


@pytest.mark.parametrize(
    ("images", "prompts"),
    [
        ("recipe", ("pixel art of a dog",)),
        ("plain", ("a dog", "a picture of a dog", "an image of a dog", "a drawing of a dog")),
    ],
)
def test_the_images_are_of_the_recipe_or_plain(images: str, prompts: tuple[str, ...]) -> None:
    asked: list[tuple[str, ...]] = []

    def references(prompts: tuple[str, ...] = ("pixel art of a dog",)) -> None:
        asked.append(prompts)
        raise Asked

    case = SimpleNamespace(goal=SimpleNamespace(concept="a dog"), references=references)
    with pytest.raises(Asked):
        inversion.run(case, inversion.Options(images=images))
    assert asked == [prompts]
