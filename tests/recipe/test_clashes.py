"""Evaluation prompts that use words of the edit are found, and nothing else is."""

from __future__ import annotations

import pytest

from forgetcli import recipe
from forgetcli.recipe.clashes import ErasedWords, stem
from forgetcli.recipe.model import Concept

ERASED = ErasedWords(
    [
        Concept(concept="neon", target="watercolour", aliases=("glowing outlines",)),
        Concept(concept="a dog", target="a cat", aliases=("man's best friend",)),
        Concept(concept="dancing", target="running", prompts=("a waltz in the ballroom",)),
    ]
)


@pytest.mark.parametrize(
    ("prompt", "concept"),
    [
        ("a rocket, Neon style", "neon"),
        ("two dogs on a beach", "a dog"),
        ("Man’s best friend, in oil", "a dog"),
        ("people who dance", "dancing"),
        # An alias counts as a whole: one of its words does not name the concept.
        ("the outlines of a friend", None),
        ("a hotdog", None),
        # A further prompt is edited, but it is no name.
        ("a waltz in the ballroom", None),
    ],
)
def test_a_prompt_names_an_erased_concept_by_all_words_of_one_name(prompt, concept):
    assert ERASED.named_in(prompt) == concept


def test_a_kept_concepts_own_words_name_nothing_else():
    assert ERASED.named_in("a photo of a hot dog", kept="a hot dog") is None
    assert ERASED.named_in("a hot dog and a dog", kept="a hot dog") == "a dog"


def test_shared_words_are_content_words_of_the_prompts_own_concept():
    assert ERASED.shared_with("an image of tubes that glow", ["neon"]) == ["glow"]
    assert ERASED.shared_with("a ballroom at night", ["dancing"]) == ["ballroom"]
    # "in" and "the" are in the edited prompt too; "glow" is another concept's word.
    assert ERASED.shared_with("in the glow", ["dancing"]) == []


def test_stems():
    words = ("running", "runs", "stories", "story", "dance", "dancing", "thing", "bed", "glass")
    assert [stem(word) for word in words] == [
        *("run", "run", "stor", "stor", "danc", "danc", "thing", "bed", "glas")
    ]


def test_a_recipe_is_warned_of_each_kind_once_with_its_number_and_an_example():
    text = """
    [[concepts]]
    concept = "van gogh"
    target = "monet"
    aliases = ["thick swirling brushstrokes"]
    indirect = ["starry night", "thick blue brushstrokes", "swirls", "van gogh"]
    [[retain]]
    concept = "a cat"
    direct = ["a cat in van gogh style", "a cat"]
    [prompts]
    templates = ["{}", "{} painting of a night"]
    """
    named, shared, edited = recipe.parse(text).warnings
    assert named == (
        "recipe: 1 of 2 retain prompts name an erased concept: 'a cat in van gogh style' "
        "names 'van gogh'; forget eval scores them apart"
    )
    # Not "starry night": the templates' words are the target's too. "van gogh" is edited itself.
    assert shared == (
        "recipe: 2 of 4 indirect prompts share words with what is edited: 'thick blue "
        "brushstrokes' shares thick, brushstrokes; forget eval scores them apart"
    )
    assert "is also edited" in edited
