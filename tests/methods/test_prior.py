"""Claims: every closed form holds the recipe's prior, and not where its weight is 0; the prior does
not hold what is edited.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pipelines import tiny_sd
from torch import Tensor

from forgetcli import methods, models, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.context_columns import held_columns, pair_columns, subjects_of
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.prior import prior_prompts
from forgetcli.methods import uce
from forgetcli.models import vocabulary
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["a painting by {}"]

[preserve]
prompts = ["a picture of a cat"]
"""
# What makes a small effect visible, by method.
STRONG = {
    "nullspace": ("edit.sites=[1,2]", "edit.prior=1000.0", "refine.steps=30", "edit.lam=0.01"),
    "uce": ("edit.positions=from-last", "edit.lam=0.01", "edit.prior=10.0"),
    "rece": ("edit.lam=0.01", "edit.prior=10.0"),
    "mace-cf": ("edit.lam=0.01", "edit.prior=10.0"),
    "dp": ("edit.positions=from-last", "edit.cutoff=0.0", "edit.min_rank=4"),
    "speed": (
        "edit.positions=from-last",
        "prior.filter=false",
        "prior.copies=0",
        "edit.min_rank=4",
    ),
    "emcid": ("edit.sites=[1,2]", "refine.steps=4", "refine.latent_steps=2", "edit.lam=1.0"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_sd(tmp_path_factory.mktemp("prior") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def edit(model: LoadedModel, method: str, *overrides: str) -> Edit:
    read = recipe.parse(f'method = "{method}"\n{RECIPE}', overrides=overrides)
    parameters = methods.get(method).Parameters.model_validate(read.parameters)
    task = task_of(read, model.base, MomentCache())
    return methods.load_edit(method)(model, task, parameters, Silent())


def read_by_the_denoiser(model: LoadedModel, prompts: list[str]) -> Tensor:
    """What the values layers make of the prompts' contexts."""
    with torch.no_grad():
        hidden = model.encode(tokenise(model.tokenizer, prompts).ids).hidden
        layers = [s.module for name, s in model.cross_attention.items() if name.endswith("to_v")]
        return torch.cat([layer(hidden) for layer in layers], -1)


def moved(model: LoadedModel, done: Edit) -> float:
    """How far the outputs for words move that no preserve prompt names."""
    words = ["night", "dog", "sketch"]
    before = read_by_the_denoiser(model, words)
    with model.weights(done.weights):
        return float((read_by_the_denoiser(model, words) - before).norm() / before.norm())


@pytest.mark.parametrize("method", sorted(STRONG))
def test_words_that_nobody_named_move_less(model: LoadedModel, method: str) -> None:
    held = edit(model, method, *STRONG[method])
    free = edit(model, method, *STRONG[method], "preserve.prior=none")
    assert moved(model, held) < 0.9 * moved(model, free) > 0
    weight = "prior.weight" if method == "speed" else "edit.prior"
    unweighed = edit(model, method, *STRONG[method], f"{weight}=0.0")
    assert all(torch.equal(unweighed.weights[key], W) for key, W in free.weights.items())


def test_methods_without_preserve_prompts_have_no_prior(model: LoadedModel) -> None:
    few = ("train.steps=2", "sample.steps=2", "train.batch=1")
    words, none = edit(model, "esd", *few), edit(model, "esd", *few, "preserve.prior=none")
    assert all(torch.equal(words.weights[key], W) for key, W in none.weights.items())


def test_the_kinds_of_prior(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a cat by night\n# no caption\na cat by night\na dog\n")

    def prompts(lines: str) -> list[str]:
        read = recipe.parse(RECIPE + lines, tmp_path / "art.toml")
        return prior_prompts(model.tokenizer, task_of(read, model.base, MomentCache()))

    words = prompts("")
    assert "night" in words
    assert "cat" in words
    assert prompts("prior_words = 3") == words[:3]
    assert prompts('prior = "none"') == []
    captions = prompts('prior = "captions"\ncaptions = ["captions.txt"]')
    assert captions == ["a cat by night", "a dog"]


def test_english_words_come_first_and_endings_fill_the_rest() -> None:
    entries = ["ing", "dog", "tion", "house", "ght", "cat"]  # the most frequent first
    numbers = {f"{entry}</w>": number for number, entry in enumerate(entries)} | {"hous": 9}
    tokenizer: Any = SimpleNamespace(get_vocab=lambda: numbers)
    assert vocabulary.words(tokenizer, 2) == ["dog", "house"]
    assert vocabulary.words(tokenizer, 4) == ["ing", "dog", "house", "cat"]
    assert vocabulary.words(tokenizer) == entries


def test_the_prior_does_not_hold_a_subject(model: LoadedModel) -> None:
    """No prompt of the templates is the bare word; among the words "van gogh" is two of them."""
    single = RECIPE.replace('"van gogh"', '"dog"').replace('"monet"', '"cat"')
    task = task_of(recipe.parse(single), model.base, MomentCache())
    pairs = pair_columns(token_states(model), task.pairs, "last")
    ids = model.tokenizer("dog").input_ids[1:-1]
    assert subjects_of(model, task.pairs) == {tuple(ids)}
    held = held_columns(token_states(model), task, uce.EditSettings(), "last", pairs)
    every = prior_prompts(model.tokenizer, task)
    assert held.prior.shape[1] == len(every) - 1
    dog = model.encode(tokenise(model.tokenizer, ["dog"]).ids).hidden[0, 1].detach().double()
    off = (held.prior - dog[:, None]).norm(dim=0)
    assert float(off.min()) > 1e-3 * float(dog.norm())


def test_a_prior_that_only_repeats_the_preserve_prompts_adds_nothing(model: LoadedModel) -> None:
    """A context counts once, whoever names it."""
    task = task_of(recipe.parse(RECIPE), model.base, MomentCache())
    words = prior_prompts(model.tokenizer, task)
    listed = task_of(
        recipe.parse(RECIPE, overrides=[f"preserve.prompts={words!r}"]), model.base, MomentCache()
    )
    pairs = pair_columns(token_states(model), listed.pairs, "last")
    assert (
        held_columns(token_states(model), listed, uce.EditSettings(), "last", pairs).prior.shape[1]
        == 0
    )
