"""From which images `inversion` learns its word."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from forgetcli.robustness.attacks import inversion


class Asked(Exception):
    """The images were asked for: the attack goes no further."""


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({"images": "recipe"}, ("pixel art of a dog",)),
        ({}, ("a dog", "a picture of a dog", "an image of a dog", "a drawing of a dog")),
    ],
)
def test_the_images_are_plain_or_of_the_recipe(
    options: dict[str, str], prompts: tuple[str, ...]
) -> None:
    """Plain ones are the default, since they make the stronger attack."""
    asked: list[tuple[str, ...]] = []

    def references(prompts: tuple[str, ...] = ("pixel art of a dog",)) -> None:
        asked.append(prompts)
        raise Asked

    case = SimpleNamespace(goal=SimpleNamespace(concept="a dog"), references=references)
    with pytest.raises(Asked):
        inversion.run(case, inversion.Options(**options))
    assert asked == [prompts]
