"""Preserve sets: what they hold, and what of them a recipe preserves."""

from __future__ import annotations

import hashlib

import pytest

from forgetcli import recipe
from forgetcli.bundled import word_lists
from forgetcli.bundled.demo import world
from forgetcli.errors import RecipeError

SMALL = '[[concepts]]\nconcept = "{}"\ntarget = "a cat"\n[preserve]\nsets = {}\n'


@pytest.mark.parametrize("name", word_lists.SETS)
def test_a_set_is_plain_prompts_each_once_and_its_digest_is_its_files(name):
    found = word_lists.preserve_set(name)
    assert len(found.prompts) > 300 and len(set(found.prompts)) == len(found.prompts)
    assert all(p == p.strip() and p.isprintable() and len(p) < 100 for p in found.prompts)
    data = (word_lists.FOLDER / f"{name}.txt").read_bytes()
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert all(
        (word_lists.FOLDER / f"LICENSE-{licence}.txt").is_file()
        for licence in ("WordNet", "Unicode")
    )


def test_the_lists_know_no_hint_of_the_embedded_models_training():
    """Words that WordNet and the embedded model's captions share are words of English; its hints
    are phrases of its own.
    """
    hints = {
        hint
        for group in ("styles", "things")
        for entry in world()[group].values()
        for hint in (*entry["hints"], *entry["heldout"])
        if len(hint.split()) > 3
    }
    text = "\n".join(p.read_text(encoding="utf-8") for p in word_lists.FOLDER.glob("*.t*"))
    assert not [hint for hint in hints if hint in text]
    assert "warm-blooded" in text  # what is looked for would be found


def test_prompts_about_the_concept_are_left_out_and_no_others():
    whole = set(word_lists.preserve_set("objects").prompts)
    (kept,) = recipe.parse(SMALL.format("a dog", '["objects"]')).shared_prompts()
    left_out = whole - set(kept)
    assert left_out and all("dog" in prompt for prompt in left_out)
    assert any("cat" in prompt for prompt in kept)
    # the control: another concept keeps them
    (other,) = recipe.parse(SMALL.format("a penguin", '["objects"]')).shared_prompts()
    assert left_out <= set(other)


def test_parts_of_words_are_no_concept():
    (kept,) = recipe.parse(SMALL.format("a car", '["objects"]')).shared_prompts()
    assert any("carrot" in prompt for prompt in kept)
    assert not any(" car" in f"{prompt} " and prompt.endswith(" car") for prompt in kept)


def test_preserve_prompts_are_the_recipes_own_and_those_of_its_sets():
    text = SMALL.format("a dog", '["scenes", "styles"]') + 'prompts = ["a heavy sea"]\n'
    read = recipe.parse(text)
    assert read.own_preserve_prompts() == ["", "a heavy sea"]
    every = read.preserve_prompts()
    assert every[:2] == ["", "a heavy sea"] and len(every) == len(set(every))
    assert set(every[2:]) == {p for part in read.shared_prompts() for p in part}
    assert recipe.parse(SMALL.format("a dog", "[]")).preserve_prompts() == [""]


def test_an_unknown_set_is_named_with_its_line_and_the_nearest():
    with pytest.raises(RecipeError) as refused:
        recipe.parse(SMALL.format("a dog", '["objects", "sceens"]'))
    assert refused.value.code == "recipe.unknown-set"
    assert ":5: " in refused.value.message and "scenes" in refused.value.hint
