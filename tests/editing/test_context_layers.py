"""Which tokens of a pair belong together, and what is read of a prompt; on a tiny real pipeline in
half precision.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import POSITIONS, tiny_sd

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.editing.alignment import matches, pieces, shared_ends, subject_ends, words
from forgetcli.editing.context_columns import (
    contexts,
    heldout_columns,
    pair_columns,
    prompt_columns,
)
from forgetcli.editing.context_layers import cross_attention, edited, pick
from forgetcli.editing.context_sources import token_states
from forgetcli.errors import EditError
from forgetcli.linalg import Projector
from forgetcli.models.tokens import tokenise

START = "<s>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("cross-attention") / "sd", torch.float16)
    return models.load(base.resolve(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def source(model):
    return token_states(model)


def tokens(prompt: str) -> list[str]:
    return [START, *prompt.split()]


# positions


@pytest.mark.parametrize(
    ("concept", "target", "subject", "becomes"),
    [
        ("dog", "cat", "dog", "cat"),
        ("a picture of dog", "a picture of cat", "dog", "cat"),
        ("dog in neon style", "cat in neon style", "dog", "cat"),  # a suffix template
        ("a van gogh picture", "a monet picture", "gogh", "monet"),  # the last of several tokens
        ("a picture , van gogh", "a picture , claude monet", "gogh", "monet"),
        ("dog", "hot dog", "dog", "dog"),  # only added in front …
        ("a picture of dog", "a picture of hot dog", "dog", "dog"),
        ("dog toy", "dog", "toy", "dog"),  # … or behind
        ("dog dog", "dog", "dog", "dog"),
        ("a dog", "a dog", "dog", "dog"),  # nothing differs
        ("a dog house", "a cat house", "dog", "cat"),
    ],
)
def test_subject_ends_with_the_last_token_that_is_not_shared(
    concept: str, target: str, subject: str, becomes: str
):
    left, right = tokens(concept), tokens(target)
    a, b = subject_ends(left, right)
    assert (left[a], right[b]) == (subject, becomes)
    start, end = shared_ends(left, right)
    assert left[:start] == right[:start] and left[len(left) - end :] == right[len(right) - end :]
    assert START not in left[start : len(left) - end] and start + end < min(len(left), len(right))


def test_the_start_token_is_never_a_subject():
    assert subject_ends([START], [START]) == (1, 1)  # of an empty prompt: the first padding
    assert subject_ends(tokens("dog"), [START]) == (1, 1)


@pytest.mark.parametrize(
    ("positions", "wanted"),
    [
        ("last", [(3, 2)]),
        ("from-last", [(3, 2), (4, 3), (5, 4), (6, 5)]),
        ("all", [(i, i) for i in range(7)]),
        ("beside", [(0, 0), (1, 1), (4, 3), (5, 4), (6, 5)]),
        ("aligned", [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 5)]),
    ],
)
def test_positions_by_kind(positions: str, wanted: list):
    assert matches(tokens("a van gogh picture"), tokens("a monet picture"), 7, positions) == wanted


def test_a_longer_target_gives_its_last_tokens():
    assert matches(
        tokens("a monet picture"), tokens("a vincent van gogh picture"), 7, "aligned"
    ) == [(0, 0), (1, 1), (2, 4), (3, 5), (4, 6)]
    assert matches(
        tokens("a vincent van gogh picture"), tokens("a claude monet picture"), 7, "aligned"
    )[2:5] == [(2, 2), (3, 2), (4, 3)]  # in front: the target's first


prompts = st.lists(st.sampled_from(["a", "of", "dog", "cat", "van", "gogh"]), max_size=6).map(
    lambda words: [START, *words]
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(prompts, prompts)
def test_positions_are_within_the_prompts_and_shared_tokens_meet_themselves(
    concept: list[str], target: list[str]
):
    for kind in ("last", "from-last", "all", "beside", "aligned"):
        found = matches(concept, target, 8, kind)
        assert len(dict(found)) == len(found)  # no position of the concept twice
        assert all(0 <= i < 8 and 0 <= j < 8 for i, j in found)
    own = {i for i, _ in matches(concept, target, 8, "aligned")} - {
        i for i, _ in matches(concept, target, 8, "beside")
    }
    start, end = shared_ends(concept, target)
    assert own == set(range(max(1, start), max(2, len(concept) - end))) and own
    for i, j in matches(concept, target, 8, "beside"):
        if i < len(concept):
            assert concept[i] == target[j]


# columns


def test_pair_columns_are_the_contexts_at_the_subjects(model, source):
    pairs = [("a van gogh picture", "a monet picture"), ("van gogh", "monet")]
    found = pair_columns(source, pairs, "last")
    C = contexts(source, tokenise(model.tokenizer, [c for c, _ in pairs]))
    T = contexts(source, tokenise(model.tokenizer, [t for _, t in pairs]))
    assert found.concepts.dtype == torch.float64 and found.concepts.shape == (C.shape[-1], 2)
    assert torch.equal(found.concepts, torch.stack([C[0, 3], C[1, 2]], 1))
    assert torch.equal(found.targets, torch.stack([T[0, 2], T[1, 1]], 1))
    assert not torch.equal(found.concepts[:, 0], C[0, 2])  # not another token's
    assert not torch.equal(found.targets[:, 0], T[0, 3])


def test_columns_that_pairs_share_keep_their_weight(source):
    once, twice = (
        pair_columns(
            source,
            [("van gogh", "monet"), ("van gogh sketch", "monet sketch")][:n],
            "all",
        )
        for n in (1, 2)
    )
    shared = once.concepts[:, 2:3]  # "gogh" after "van": the same column in both
    assert int((twice.concepts - shared).norm(dim=0).lt(1e-5).sum()) == 2
    assert int((once.concepts - shared).norm(dim=0).lt(1e-5).sum()) == 1


def test_changed_are_the_columns_of_which_something_else_is_asked(model, source):
    ids = tokenise(model.tokenizer, ["a van gogh picture"]).ids[0].tolist()
    changed = pair_columns(source, [("a van gogh picture", "a monet picture")], "all").changed
    # Not the start token, not "a".
    assert {position for _, _, position in changed} == set(range(2, POSITIONS))
    assert all(list(read) == ids[: position + 1] for _, read, position in changed)
    assert {
        position
        for _, _, position in pair_columns(
            source, [("a van gogh picture", "a monet picture")], "last"
        ).changed
    } == {3}


def test_prompt_columns_hold_each_context_once(model, source):
    C = contexts(source, tokenise(model.tokenizer, ["a cat", "a cat house"]))
    last = prompt_columns(source, ["a cat", "a cat house", "a cat"], "last")
    assert torch.allclose(last, torch.stack([C[0, 2], C[1, 3]], 1), atol=1e-5)
    onward = prompt_columns(source, ["a cat", "a cat house"], "from-last")
    assert onward.shape[1] == (POSITIONS - 2) + (POSITIONS - 3)
    everywhere = prompt_columns(source, ["a cat", "a cat house"], "all")
    assert everywhere.shape[1] == 2 * POSITIONS - 3  # <start>, "a" and "cat" are shared
    distances = torch.cdist(everywhere.T, everywhere.T) + torch.eye(everywhere.shape[1])
    assert float(distances.min()) > 1e-4  # and no two are alike


@pytest.mark.parametrize("positions", ["last", "from-last", "all"])
def test_the_empty_prompt_counts_everywhere(model, source, positions: str):
    C = contexts(source, tokenise(model.tokenizer, [""]))[0]
    assert torch.allclose(prompt_columns(source, [""], positions), C.T, atol=1e-5)
    alone, both = (
        prompt_columns(source, ["a cat"], positions),
        prompt_columns(source, ["", "a cat"], positions),
    )
    assert both.shape[1] - alone.shape[1] == POSITIONS - (
        positions == "all"
    )  # the start token was there already


def test_prompts_in_several_batches_are_the_same_columns(source, monkeypatch: pytest.MonkeyPatch):
    prompts = ["", "a cat", "a dog", "a house", "a cat house", "a sketch of a dog"]
    whole = prompt_columns(source, prompts, "all")
    monkeypatch.setattr("forgetcli.editing.context_columns.BATCH", 2)
    assert torch.allclose(prompt_columns(source, prompts, "all"), whole, atol=1e-5)


def test_what_is_to_change_is_not_preserved_at_once(model, source):
    pairs = pair_columns(source, [("a dog", "a cat")], "all")
    dog = contexts(source, tokenise(model.tokenizer, ["a dog"]))[0, 2]
    with_, without = (
        prompt_columns(source, ["a dog house", "a house"], "all", p) for p in (None, pairs)
    )
    assert (
        float((with_ - dog[:, None]).norm(dim=0).min()) < 1e-5
    )  # within "a dog house" the model reads "a dog"
    assert float((without - dog[:, None]).norm(dim=0).min()) > 1e-3
    assert with_.shape[1] - without.shape[1] == 1  # "house" after it stays, and so does "a"
    nothing = prompt_columns(source, ["a dog"], "last", pairs)
    assert nothing.shape == (len(dog), 0)


def test_words_end_before_the_first_end_token(model):
    ids = tokenise(model.tokenizer, ["a cat", ""]).ids.tolist()
    assert (
        words(model.tokenizer, ids[0]) == ids[0][:3]
        and words(model.tokenizer, ids[1]) == ids[1][:1]
    )
    assert words(SimpleNamespace(eos_token_id=-1), [5, 6]) == [5, 6]  # cut off: all of it


def test_pieces_are_compared_with_their_words(model):
    """The tiny vocabulary has "cat", and splits "xcat" into "x" and "cat"."""
    left, right = (model.tokenizer(f"a {word} night").input_ids for word in ("xcat", "ycat"))
    assert left[3] == right[3] == model.tokenizer("cat").input_ids[1]
    a, b = pieces(model.tokenizer, left), pieces(model.tokenizer, right)
    assert [at for at, _ in a] == [0, 0, 0, 1, 0]  # start token, a, x, cat, night
    assert a[:2] == b[:2] and a[4] == b[4] and a[3] != b[3]
    assert subject_ends(a, b) == (3, 3) != subject_ends(left[:-1], right[:-1])


def test_pieces_of_a_vocabulary_that_marks_the_starts_of_words():
    names = ["▁a", "▁jail", "house", "</s>", "<toy>", "<toy>_1"]
    tokenizer = SimpleNamespace(
        eos_token_id=3,
        added_tokens_encoder={"</s>": 3, "<toy>": 4, "<toy>_1": 5},
        convert_ids_to_tokens=lambda ids: [names[number] for number in ids],
    )
    assert pieces(tokenizer, [0, 1, 2, 4, 5, 3, 3]) == [
        (0, (0,)), (0, (1, 2)), (1, (1, 2)), (0, (4,)), (0, (5,)),
    ]  # fmt: skip


def test_a_prompt_that_is_cut_off_is_refused(source):
    long = " ".join(["cat"] * POSITIONS)
    with pytest.raises(EditError) as caught:
        pair_columns(source, [("van gogh", long)], "last")
    assert caught.value.code == "edit.prompt-too-long"
    assert (
        prompt_columns(source, [long], "last").shape[1] == 1
    )  # to preserve what fits of it does no harm


# sites and figures


def test_sites_are_the_cross_attention_of_the_denoiser(model):
    both, values = pick(model), pick(model, ["to_v"])
    assert len(both) == 2 * len(values) == 8
    assert {s.name.rpartition(".")[2] for s in both} == {"to_k", "to_v"} and all(
        ".attn2." in s.name for s in both
    )
    assert all(s.name.endswith("to_v") for s in values)
    with pytest.raises(EditError) as caught:
        pick(SimpleNamespace(cross_attention={}))
    assert caught.value.code == "edit.no-cross-attention"


def test_report_is_what_the_change_does(model, source):
    group = cross_attention(model, ["to_v"])
    site = group.sites[0]
    W = site.module.weight.double()  # float16 in the file, so float32 has it exactly
    generator = torch.Generator().manual_seed(0)
    delta = 1e-2 * torch.randn(W.shape, generator=generator, dtype=torch.float64)
    pairs = pair_columns(source, [("van gogh", "monet")], "last")
    keep, other = (
        prompt_columns(source, ["a cat"], "last"),
        prompt_columns(source, ["a house"], "last"),
    )
    result = edited(
        group,
        {site.name: delta},
        keep,
        {site.name: 0.5},
        pairs,
        other,
        {site.name: Projector.identity(len(keep))},
        losses=(1.0,),
    )
    (report,), wanted = result.sites, W @ (pairs.targets - pairs.concepts)
    assert torch.equal(result.weights["unet", site.parameter], W + delta)
    assert report.delta_rel == pytest.approx(float(delta.norm() / W.norm()))
    assert report.preserve_drift == pytest.approx(float((delta @ keep).norm() / (W @ keep).norm()))
    assert report.heldout_drift == pytest.approx(float((delta @ other).norm() / (W @ other).norm()))
    assert report.preserve_drift != pytest.approx(report.heldout_drift)
    assert report.fit == pytest.approx(
        float((delta @ pairs.concepts - wanted).norm() / wanted.norm())
    )
    assert (report.rcond, report.null_dim, result.losses) == (0.5, len(keep), (1.0,))
    plain = edited(group, {site.name: delta}, keep).sites[0]
    assert (plain.rcond, plain.null_dim, plain.fit, plain.heldout_drift) == (None,) * 4


def test_heldout_columns_are_those_of_the_heldout_prompts(source):
    prompts = ("a cat", "a house")
    found = heldout_columns(source, prompts, "last")
    assert torch.allclose(found, prompt_columns(source, prompts, "last"), atol=1e-6)
    assert heldout_columns(source, (), "last") is None


def test_folded_columns_have_the_second_moment_of_all(source, monkeypatch):
    """Catches: a fold that loses what was folded before, or the columns of the last batch."""
    prompts = ["", "a cat", "a dog", "a house", "a cat house"]
    whole = prompt_columns(source, prompts, "all")
    monkeypatch.setattr("forgetcli.editing.context_columns.BATCH", 2)
    assert torch.allclose(prompt_columns(source, prompts, "all", folded=True), whole, atol=1e-5)
    monkeypatch.setattr("forgetcli.editing.context_columns.FOLD_AT", 8 * whole.numel() // 2)
    folded = prompt_columns(source, prompts, "all", folded=True)
    assert folded.shape[1] < whole.shape[1]
    assert torch.allclose(folded @ folded.T, whole @ whole.T, atol=1e-4)
