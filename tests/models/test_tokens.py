"""Merging by prefix against the keys of a real (tiny) causal encoder, and what the tokenizer must
not cut off.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import POSITIONS, tiny_sd
from torch import Tensor

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.errors import EditError
from forgetcli.linalg import Moment
from forgetcli.models.tokens import TokenBatch, tokenise

PROMPTS = (
    "a painting by van gogh",
    "a painting by monet",
    "a painting",
    "",
    "van gogh",
    "a painting by van gogh",
    "a picture of a cat by van gogh",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("prompts") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


@pytest.fixture(scope="module")
def batch(model) -> TokenBatch:
    return tokenise(model.tokenizer, PROMPTS)


@pytest.fixture(scope="module")
def keys(model, batch: TokenBatch) -> Tensor:
    """Keys of the site in block 2, shape (prompts, positions, d)."""
    sites = model.pick_sites([2])
    return model.keys(sites, batch.ids)[sites[0].name]


def test_keys_are_those_of_a_whole_pass_which_ends_at_the_last_site(
    model, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
):
    """Catches a pass that ends before a site was reached, and one that goes on after the last."""
    sites, encoder = model.pick_sites([1, 2]), model.encoders[0]
    blocks = [module for module in model.text_encoder.modules() if "Layer" in type(module).__name__]
    blocks = [module for module in blocks if hasattr(module, "mlp")]
    inputs: list[Tensor] = []
    done: list[Tensor] = []
    hooks = [s.module.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for s in sites]
    hooks += [block.register_forward_hook(lambda *_: done.append(_[-1])) for block in blocks]
    with torch.no_grad():
        model.encoder_output(encoder, batch.ids)
    assert len(done) == len(blocks) > 3
    done.clear()
    monkeypatch.setattr("forgetcli.models.base.BATCH", 3)  # the prompts are read in three parts
    found, merged = model.keys(sites, batch.ids), model.distinct_keys(sites, batch)
    for hook in hooks:
        hook.remove()
    assert len(done) == 2 * 3 * 2  # blocks 0 and 1; block 2 ends within
    for site, whole in zip(sites, inputs):
        # A matrix product of other rows may round otherwise: the parts have other shapes.
        torch.testing.assert_close(found[site.name], whole.double(), rtol=1e-5, atol=1e-6)
        assert torch.equal(merged[site.name], batch.merge(found[site.name]))


def test_positions_with_one_prefix_are_one_key_and_others_are_not(batch: TokenBatch, keys: Tensor):
    distance = torch.cdist(
        keys.flatten(0, 1), keys.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    same = batch.owner.flatten()[:, None] == batch.owner.flatten()
    size = keys.flatten(0, 1).norm(dim=1).mean()
    assert distance[same].max() < 1e-5 * size
    assert distance[~same].min() > 1e-3 * size
    assert same.sum() > len(same)  # something was merged at all


def test_token_and_position_alone_would_merge_keys_that_differ(batch: TokenBatch, keys: Tensor):
    """The control: padding has one token everywhere, yet after different prompts it is different
    keys.
    """
    one, other = PROMPTS.index("a painting by monet"), PROMPTS.index("van gogh")
    assert batch.ids[one, -1] == batch.ids[other, -1]
    assert batch.owner[one, -1] != batch.owner[other, -1]
    assert (keys[one, -1] - keys[other, -1]).norm() > 1e-3 * keys[one, -1].norm()


def test_moment_of_merged_keys_is_that_of_all_positions(batch: TokenBatch, keys: Tensor):
    columns = keys.flatten(0, 1).T  # (d, prompts × positions)
    merged = batch.merge(keys)
    wanted = columns @ columns.T
    found = Moment.of(merged, batch.counts)
    assert found.tokens == len(PROMPTS) * POSITIONS == columns.shape[1] > merged.shape[1]
    assert (found.matrix - wanted).norm() < 1e-5 * wanted.norm()
    uncounted = Moment.of(merged, torch.ones_like(batch.counts)).matrix
    assert (uncounted - wanted).norm() > 1e-2 * wanted.norm()


def test_moment_of_batches_is_that_of_all(batch: TokenBatch, keys: Tensor):
    whole = Moment.of(batch.merge(keys), batch.counts)
    parts = [
        Moment.of(part.merge(rows), part.counts)
        for part, rows in zip(batch.split(3), keys.split(3), strict=True)
    ]
    total = parts[0] + parts[1] + parts[2]
    assert total.tokens == whole.tokens
    assert (total.matrix - whole.matrix).norm() < 1e-5 * whole.matrix.norm()
    assert ((parts[0] + parts[1]).matrix - whole.matrix).norm() > 1e-2 * whole.matrix.norm()


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=8))
def test_merging_is_by_prefix_for_any_tokens(rows: list[list[int]]):
    batch = TokenBatch(tuple(map(str, rows)), torch.tensor(rows))
    prefixes = [tuple(row[:end]) for row in rows for end in range(1, 6)]
    times = Counter(prefixes)
    owner = batch.owner.flatten().tolist()
    assert [[a == b for b in owner] for a in owner] == [
        [a == b for b in prefixes] for a in prefixes
    ]
    assert batch.counts.tolist() == [times[prefixes[first]] for first in batch.first.tolist()]
    assert len(batch.first) == len(times)
    assert batch.first.tolist() == [prefixes.index(prefix) for prefix in dict.fromkeys(prefixes)]
    marks = torch.arange(len(prefixes)).reshape(len(rows), 5, 1)  # each position its own number
    assert batch.merge(marks).tolist() == [batch.first.tolist()]


def test_split_keeps_prompts_with_their_tokens(batch: TokenBatch):
    parts = list(batch.split(3))
    assert [len(part.prompts) for part in parts] == [3, 3, 1]
    assert sum((part.prompts for part in parts), ()) == batch.prompts == PROMPTS
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)


def test_prompts_are_padded_to_the_models_length(model, batch: TokenBatch):
    assert batch.ids.shape == (len(PROMPTS), POSITIONS)
    empty = batch.ids[PROMPTS.index("")]
    assert empty[0] == model.tokenizer.bos_token_id
    assert (empty[1:] == model.tokenizer.eos_token_id).all()


def test_strict_refuses_what_would_be_cut_off_and_nothing_shorter(model):
    longest = " ".join(["cat"] * (POSITIONS - 2))  # start and end take two
    assert tokenise(model.tokenizer, [longest], strict=True).ids.shape == (1, POSITIONS)
    with pytest.raises(EditError) as caught:
        tokenise(model.tokenizer, ["cat", f"{longest} dog"], strict=True)
    assert caught.value.code == "edit.prompt-too-long"
    assert f"is {POSITIONS + 1} tokens long" in caught.value.message
    assert f"reads {POSITIONS}" in caught.value.message
    cut = tokenise(
        model.tokenizer, [longest, f"{longest} dog"]
    )  # not strict: the last word is lost in silence
    assert torch.equal(cut.ids[0], cut.ids[1])
