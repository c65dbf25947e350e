"""An attribute erased from one concept: what the drafted recipe edits and preserves, and what the
edit does to images.
"""

from __future__ import annotations

import pytest
from PIL.Image import Image

from forgetcli import methods, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.generation.generate import Sampler
from forgetcli.generation.images import ImageRequest
from forgetcli.models.base import LoadedModel
from forgetcli.pipeline.drafting import attribute
from forgetcli.pipeline.drafting.draft import Draft
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.text import recipe_text
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent
from forgetcli.recipe import Recipe


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(base.resolve("demo"), "cpu")


@pytest.fixture(scope="module")
def model(sampler: Sampler) -> LoadedModel:
    return sampler.model


@pytest.fixture(scope="module")
def neon_cat(model: LoadedModel) -> Draft:
    return attribute.draft(model, "neon", "a cat", Options(attribute_of="a cat"))


def parsed(draft: Draft) -> Recipe:
    return recipe.parse(recipe_text(draft, model="demo"))


def test_pairs_name_both_targets_the_concept_alone_and_nothing_preserved_names_both(
    neon_cat: Draft,
):
    read = parsed(neon_cat)
    cats = ("cat", "kitten")

    def names(prompt: str) -> tuple[bool, bool]:
        return "neon" in prompt, any(word in prompt.split() for word in cats)

    pairs = read.edit_pairs()
    assert len(pairs) > 4 and not read.warnings
    assert all(names(prompt.replace(",", "")) == (True, True) for prompt, _ in pairs)
    assert all(names(target) == (False, True) for _, target in pairs)
    kept = [names(prompt) for prompt in read.own_preserve_prompts()]
    assert (True, True) not in kept
    # neon dogs, cats in other styles, and cats alone
    assert kept.count((True, False)) > 20 and kept.count((False, True)) > 20
    assert "a cat" in read.own_preserve_prompts() and "neon" in read.own_preserve_prompts()


def test_the_evaluation_asks_what_is_neither_edited_nor_preserved(neon_cat: Draft):
    read = parsed(neon_cat)
    (asked,) = [concept for concept in read.concepts if concept.direct]
    assert asked.label == "neon" and len(asked.direct) == 4
    prompts = [*asked.direct, *(p for r in read.retain for p in r.direct)]
    used = {p for pair in read.edit_pairs() for p in pair} | set(read.own_preserve_prompts())
    assert not set(prompts) & used
    assert {"a cat", "neon"} <= {retained.concept for retained in read.retain}


@pytest.mark.parametrize(
    ("options", "concept", "target"),
    [
        (Options(), "a dog with a penguin", "a dog"),
        (Options(target="lamp"), "a dog with a penguin", "a dog with a lamp"),
        (Options(kind="style"), "a dog in the style of penguin", "a dog"),
        (Options(kind="action"), "a dog penguin", "a dog"),
        (Options(kind="person", aliases=("king",)), "a dog with a penguin", "a dog"),
    ],
)
def test_each_kind_of_attribute_is_said_as_prompts_say_it(model, options, concept, target):
    made = attribute.draft(model, "a penguin", "dog", options)
    first = made.concepts[0]
    assert (first.concept, first.target) == (concept, target)
    assert not options.aliases or "a dog beside a king" in first.aliases
    assert all(choice.value and choice.why for choice in made.choices)
    assert not parsed(made).warnings


def test_near_concepts_keep_the_attribute(model):
    made = attribute.draft(model, "neon", "cat", Options(near=("bird",), sets=()))
    assert "neon painting of a bird" in made.preserve_prompts
    assert not any("rabbit" in prompt for prompt in made.preserve_prompts)


@pytest.mark.parametrize(
    ("erased", "owner", "code"),
    [
        ("dog", "a dog", "erase.attribute"),
        ("puppy", "dog", "erase.attribute"),
        ("hat", "", "erase.concept"),
        ("", "cowboy", "erase.concept"),
        ("hat", "!?", "erase.concept"),
        ("hat", "a very " * 12 + "dog", "edit.prompt-too-long"),
    ],
)
def test_what_is_no_attribute_is_refused_with_a_hint(model, erased, owner, code):
    with pytest.raises(ForgetError) as refused:
        attribute.draft(model, erased, owner, Options())
    assert refused.value.code == code and refused.value.hint
    assert "\n" not in refused.value.message


@pytest.fixture(scope="module")
def edit(model: LoadedModel, neon_cat: Draft, tmp_path_factory: pytest.TempPathFactory) -> Edit:
    read = parsed(neon_cat)
    cache = MomentCache(tmp_path_factory.mktemp("moments"))
    task = task_of(read, model.base, cache, tokenizer=model.tokenizer)
    parameters = methods.get("nullspace").Parameters.model_validate(read.parameters)
    return methods.load_edit("nullspace")(model, task, parameters, Silent())


def test_cats_lose_the_style_and_stay_and_the_style_stays_on_others(sampler, model, edit):
    asked = {
        "a drawing of a cat in neon style": ("cat", "neon"),
        "art of a cat, neon style": ("cat", "neon"),
        "neon image of a dog": ("dog", "neon"),
        "a drawing of a rocket in neon style": ("rocket", "neon"),
        "a drawing of a cat in van gogh style": ("cat", "van_gogh"),
    }
    judge = judges.load("demo")
    requests = [ImageRequest(prompt, 3, steps=10) for prompt in asked]

    def seen(images: list[Image], which: int) -> list[bool]:
        return [v.seen for v in judge.see(images, [labels[which] for labels in asked.values()])]

    before = sampler(requests)
    with model.weights(edit.weights):
        after = sampler(requests)
    assert all(seen(before, 0)) and all(seen(before, 1))  # the control: all were as asked
    assert all(seen(after, 0))  # every thing is still there
    assert seen(after, 1) == [False, False, True, True, True]
