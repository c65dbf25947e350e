"""Claim: a method's task has the prompts, the seed and the earlier edits that recipe and base
model say.
"""

from __future__ import annotations

from forgetcli import recipe
from forgetcli.artifact import previous_edits
from forgetcli.pipeline.task import task_of

RECIPE = """
seed = 7

[[concepts]]
concept = "a dog"
target = "a cat"

[prompts]
templates = ["{}", "a photo of {}"]

[preserve]
prompts = ["a house", "a house", "a car"]

[[retain]]
concept = "bird"
direct = ["a bird"]
indirect = ["a bird in a tree"]

[[retain]]
concept = "fish"
direct = ["a fish"]
"""


def test_a_task_has_what_the_recipe_says(monkeypatch):
    base, sites, observer, cache = object(), [object()], object(), object()
    asked = []

    def held(previous, *given):
        asked.append((previous.base, *given))
        return {"site": "moment"}

    monkeypatch.setattr(previous_edits.PreviousEdits, "held", held)
    task = task_of(recipe.parse(RECIPE), base, cache)
    assert task.pairs == (("a dog", "a cat"), ("a photo of a dog", "a photo of a cat"))
    assert task.preserve == ("", "a house", "a car")
    assert task.heldout == ("a bird", "a bird in a tree", "a fish")
    assert (task.seed, task.moments) == (7, cache)
    assert asked == []  # the ledger is read only if the method asks for it
    assert task.earlier(sites, observer) == {"site": "moment"}
    assert asked == [(base, sites, observer)]
