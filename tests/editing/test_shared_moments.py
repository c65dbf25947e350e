"""Second moments of preserve sets are cached by set and added."""

from __future__ import annotations

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import parts, preserve_moments
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent

OWN = ("", "a house", "a dog by monet")
FIRST = ("a picture of a cat", "a sketch")
SECOND = ("a painting of a night", "a house by monet", "a sketch of a dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_sd(tmp_path_factory.mktemp("shared") / "sd")
    return models.load(base.resolve(str(folder)), device="cpu")


def naive(model, site, prompts: dict[str, int]) -> torch.Tensor:
    """Σ times · k kᵀ over all positions, one prompt at a time."""
    total = torch.zeros(1, dtype=torch.float64)
    for prompt, times in prompts.items():
        keys = model.keys([site], tokenise(model.tokenizer, [prompt]).ids)[site.name][0].double()
        total = total + times * keys.T @ keys
    return total


def test_the_moment_is_the_sum_of_the_parts_and_the_empty_prompt_weighs_as_much_as_all(
    model, tmp_path
):
    sites = model.pick_sites((1, 2))
    found = preserve_moments(
        model, sites, (*OWN, *FIRST, *SECOND), MomentCache(tmp_path), Silent(),
        balance_empty=True, shared=(FIRST, SECOND),
    )  # fmt: skip
    weights = dict.fromkeys((*OWN, *FIRST, *SECOND), 1) | {"": 7}
    for site in sites:
        expected = naive(model, site, weights)
        moment = found.by_site[site.name].matrix
        assert (moment - expected).norm() < 1e-6 * expected.norm()
        without = naive(model, site, {p: w for p, w in weights.items() if p not in FIRST})
        assert (moment - without).norm() > 1e-3 * expected.norm()  # the check can fail


def test_a_second_edit_finds_the_sets_it_shares(model, tmp_path):
    sites, cache = model.pick_sites((1,)), MomentCache(tmp_path)
    first = preserve_moments(
        model, sites, (*OWN, *FIRST, *SECOND), cache, Silent(), shared=(FIRST, SECOND)
    )
    assert (first.hits, first.misses) == (0, 3)
    other = preserve_moments(
        model, sites, ("", "van gogh", *FIRST, *SECOND), cache, Silent(), shared=(FIRST, SECOND)
    )
    assert (other.hits, other.misses) == (2, 1)
    changed = preserve_moments(
        model, sites, ("", "van gogh", *FIRST), cache, Silent(), shared=(FIRST[:1],)
    )
    assert changed.hits == 0


def test_a_prompt_of_a_set_that_the_recipe_names_too_counts_once():
    assert parts(("", "a", "b"), (("b", "c"),), True) == [(["", "a"], 3), (("b", "c"), 3)]
    assert parts(("", "a"), (), False) == [(["", "a"], 1)]
