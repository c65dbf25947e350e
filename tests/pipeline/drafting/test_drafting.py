"""Drafting: what is chosen for a concept, and that every choice can be made otherwise."""

from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from forgetcli import models, recipe
from forgetcli.bundled.word_lists import words
from forgetcli.checkpoint import base
from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting import lexicon, similarity
from forgetcli.pipeline.drafting.draft import (
    DISTINCT_COSINE,
    MINIMUM_EFFECT,
    candidates,
    draft,
)
from forgetcli.pipeline.drafting.kinds import KINDS, bare, guessed, names_an_image, phrased
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.text import recipe_text


@pytest.fixture(scope="module")
def model():
    return models.load(base.resolve("demo"), device="cpu")


@pytest.fixture(scope="module")
def penguin(model):
    return draft(model, ["penguin"])


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("a dog", "dog"),
        ("  The  night sky ", "night sky"),
        ("a person running", "running"),
        ("someone riding a bicycle", "riding a bicycle"),
        ("anteater", "anteater"),
        ("person", "person"),
    ],
)
def test_articles_and_the_person_of_an_action_are_no_part_of_a_concept(said, word):
    assert bare(said) == word


@pytest.mark.parametrize(
    ("word", "kind", "phrase"),
    [
        ("dog", "object", "a dog"),
        ("elephant", "object", "an elephant"),
        ("hour", "object", "an hour"),
        ("rain", "object", "rain"),
        ("fireworks", "object", "fireworks"),
        ("cactus", "object", "a cactus"),
        ("Eiffel Tower", "object", "Eiffel Tower"),
        ("van gogh", "style", "van gogh"),
        ("running", "action", "a person running"),
        ("nurse", "person", "a nurse"),
    ],
)
def test_a_word_is_said_as_prompts_say_it(word, kind, phrase):
    assert phrased(word, kind) == phrase


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("van gogh", "style"),
        ("Claude Monet", "style"),
        ("pencil sketch", "style"),
        ("dog", "object"),
        ("soccer ball", "object"),
        ("running", "action"),
        ("juggling knives", "action"),
        ("Marie Curie", "person"),
    ],
)
def test_the_kind_is_that_of_the_word_lists_or_of_the_words_form(word, kind):
    assert guessed(word)[0] == kind


def test_a_word_of_no_list_gets_the_kind_of_its_neighbours(model):
    assert guessed("starry night") == ("", "")
    (concept,) = draft(model, ["tropical fish"]).concepts
    assert concept.kind.name == "object"


def test_synonyms_and_kinds_of_a_thing_mean_it(model):
    same = lexicon.same_meaning("dog", "object")
    assert {"puppy", "hound"} <= set(same) and "cat" not in same
    assert "toy" not in same  # a kind of dog, and more often something else


@pytest.mark.parametrize(
    ("name", "unique", "ambiguous"),
    [
        ("Grant Wood", "", "Wood"),  # a material
        ("Daniel Chester French", "", "French"),  # in definitions: French painters
        ("David Smith", "David Roland Smith", "Smith"),  # Kate Smith
        ("Claude Monet", "Monet", ""),
        ("van gogh", "Gogh", ""),
        ("dog", "hound", ""),
    ],
)
def test_a_name_that_says_something_else_is_ambiguous(name: str, unique: str, ambiguous: str):
    assert not unique or not lexicon.is_ambiguous(unique, name)
    assert not ambiguous or lexicon.is_ambiguous(ambiguous, name)


class WithoutFloat64(torch.Tensor):
    """A tensor of a device without float64."""

    def double(self) -> torch.Tensor:
        raise TypeError("this device has no float64")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_contexts_are_summed_on_the_cpu(model):
    def encode(ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(hidden=model.encode(ids).hidden.as_subclass(WithoutFloat64))

    other = SimpleNamespace(tokenizer=model.tokenizer, encode=encode)
    with pytest.raises(TypeError):
        encode(model.tokenizer("a dog", return_tensors="pt").input_ids).hidden.double()
    found = similarity.contexts(other, ["a dog", "a cat"], ("{}",))
    assert torch.equal(found, similarity.contexts(model, ["a dog", "a cat"], ("{}",)))


def test_a_word_is_not_the_people_of_that_name():
    assert [entry.name for entry in lexicon.words_like("king")] == ["king"]
    assert [entry.name for entry in lexicon.words_like("monet")] == ["Claude Monet"]


def test_a_target_is_far_enough_and_no_synonym_and_its_rivals_were_nearer(model, penguin):
    (concept,) = penguin.concepts
    kind = KINDS["object"]
    others = candidates(model, "object")
    near = similarity.compare(
        model, "a penguin", [phrased(word, "object") for word in others], kind.comparison
    )
    target = near[concept.target]
    assert target.cosine < DISTINCT_COSINE and target.effect > MINIMUM_EFFECT - 0.05
    assert bare(concept.target) not in lexicon.same_meaning("penguin", "object")
    cosines = sorted(read.cosine for read in near.values())
    assert target.cosine > cosines[len(cosines) // 2]  # a neighbour, not anything


def test_a_word_that_the_model_does_not_know_says_little(model):
    template = KINDS["style"].comparison
    read = similarity.compare(model, "neon", ["pixel art", "van gogh", "halftone"], template)
    assert (
        read["halftone"].effect
        < 0.5
        < MINIMUM_EFFECT - 0.1
        < min(read["pixel art"].effect, read["van gogh"].effect)
    )


def test_no_target_is_another_word_for_an_image(model):
    """The embedded encoder reads "a photograph" as the nearest word to a bird."""
    read = draft(model, ["bird"], Options())
    assert read.concepts[0].target != "a photograph"
    assert [names_an_image(word, "object") for word in ("photograph", "camera")] == [True, False]
    assert not names_an_image("drawing", "style")


def test_what_the_encoder_reads_as_the_concept_is_neither_kept_nor_a_target(model):
    made = draft(model, ["dog"])
    (concept,) = made.concepts
    assert {"a puppy", "a hound"} <= set(concept.aliases)  # known, and read as a dog
    assert not {"a puppy", "a hound", "a dog"} & {concept.target, *concept.near}
    assert not any("puppy" in prompt or "dog" in prompt.split() for prompt in made.preserve_prompts)
    kind = KINDS["object"]
    near = similarity.compare(model, "a dog", concept.near, kind.comparison)
    cosines = [read.cosine for read in near.values()]
    assert max(cosines) < DISTINCT_COSINE + 0.1  # the mean that is taken out differs a little


def test_the_recipe_of_a_draft_is_valid_short_and_says_the_same(penguin):
    text = recipe_text(penguin, model="demo")
    read = recipe.parse(text)
    (concept,) = penguin.concepts
    assert (read.concepts[0].concept, read.concepts[0].target) == ("a penguin", concept.target)
    assert read.preserve.prompts == penguin.preserve_prompts and read.preserve.sets == penguin.sets
    assert read.prompts.templates == penguin.templates and not read.warnings
    assert len(text.splitlines()) < 120 and all(len(line) <= 112 for line in text.splitlines())


def test_evaluation_prompts_are_neither_edited_nor_preserved(penguin):
    read = recipe.parse(recipe_text(penguin, model="demo"))
    asked = [p for c in (*read.concepts, *read.retain) for p in (*c.direct, *c.indirect)]
    used = {prompt for pair in read.edit_pairs() for prompt in pair}
    assert asked and not set(asked) & (used | set(read.own_preserve_prompts()))


def test_every_choice_is_told_and_can_be_made_otherwise(model, penguin):
    assert {choice.key for choice in penguin.choices} == {
        "kind", "aliases", "target", "near", "templates", "sets",
    }  # fmt: skip
    chosen = Options(
        kind="object", target="a lamp", aliases=("tuxedo bird",), templates=("{}", "two of {}"),
        near=("bird",), sets=("scenes",),
    )  # fmt: skip
    made = draft(model, ["penguin"], chosen)
    (concept,) = made.concepts
    assert (concept.target, concept.aliases) == ("a lamp", ("a tuxedo bird",))
    assert concept.near == ("a lamp", "a bird") and made.sets == ("scenes",)
    assert made.templates == ("{}", "two of {}")
    assert all(choice.why == "given" for choice in made.choices)


def test_several_concepts_keep_out_of_one_another(model):
    made = draft(model, ["dog", "cat", "running"])
    dog, cat, running = made.concepts
    assert "a cat" not in (dog.target, *dog.near) and "a dog" not in (cat.target, *cat.near)
    assert running.concept == "a person running" and "{}" in made.templates
    recipe.parse(recipe_text(made, model="demo"))
    puppy = draft(model, ["dog", "puppy"])  # one is an alias of the other
    assert not recipe.parse(recipe_text(puppy, model="demo")).warnings


@pytest.mark.parametrize(
    ("concepts", "options", "code"),
    [
        ([""], Options(), "erase.concept"),
        (["!!!"], Options(), "erase.concept"),
        (["12"], Options(), "erase.concept"),
        (["dog\x1b[2J"], Options(), "erase.concept"),
        (["dog " * 60], Options(), "erase.concept"),
        (["dog", "a dog"], Options(), "erase.concept"),
        (["dog"], Options(kind="beast"), "erase.kind"),
        (["dog", "cat"], Options(aliases=("pet",)), "erase.alias"),
        (["dog"], Options(target="a dog"), "erase.target"),
        (["dog"], Options(target="Puppy"), "erase.target"),
        (["van gogh"], Options(target="Vincent van Gogh"), "erase.target"),
        (["dog"], Options(target=""), "erase.concept"),
        (["dog"], Options(sets=("objekts",)), "erase.set"),
        (["dog"], Options(templates=("a dog",)), "erase.template"),
        (["a very " * 12 + "dog"], Options(), "edit.prompt-too-long"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(model, concepts, options, code):
    with pytest.raises(ForgetError) as refused:
        draft(model, concepts, options)
    assert refused.value.code == code and refused.value.hint
    assert "\n" not in refused.value.message


def test_drafting_reads_nothing_of_the_embedded_models_words(model, monkeypatch):
    opened = []
    for owner, name in ((builtins, "open"), (Path, "open"), (Path, "read_text")):
        real = getattr(owner, name)

        def recorded(*args, _real=real, **options):
            opened.append(str(args[0]))
            return _real(*args, **options)

        monkeypatch.setattr(owner, name, recorded)
    monkeypatch.setattr("forgetcli.bundled.demo.world", lambda: pytest.fail("world.toml was read"))
    words.cache_clear()
    text = recipe_text(draft(model, ["penguin"]), model="demo")
    assert any(path.endswith("lexicon.tsv") for path in opened)
    assert not any(path.endswith("world.toml") for path in opened)
    monkeypatch.undo()  # the reader of recipes warns of concepts that the judge cannot name
    recipe.parse(text)
