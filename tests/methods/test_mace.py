"""MACE's closed-form refinement: which tokens it maps where, that the weights are the printed ones,
and real pipelines.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concept_pictures import erase
from pipelines import tiny_sd
from pydantic import ValidationError
from torch import Tensor

from forgetcli import methods, models, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.context_columns import contexts, prompt_columns
from forgetcli.editing.context_layers import pick
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.methods import mace_cf
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
method = "mace-cf"
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["a painting by {}", "{} picture"]

[preserve]
prior = "none"
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]
"""
# what follows the start token: "a painting by van gogh", "a painting by monet"; "van gogh picture",
# "monet picture"
SAME = (((0, 0), (1, 1), (2, 2), (3, 3)), ((0, 0),))  # before the subject
OWN = (((4, 4), (5, 4)), ((1, 1), (2, 1)))
SUBJECT_ENDS = ((5, 4), (2, 1))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return models.load(
        base.resolve(tiny_sd(tmp_path_factory.mktemp("mace") / "sd", torch.float32)), device="cpu"
    )


def edit(model, *overrides: str):
    read = recipe.parse(RECIPE, overrides=overrides)
    return methods.load_edit("mace-cf")(
        model,
        task_of(read, model.base, MomentCache()),
        mace_cf.Parameters.model_validate(read.parameters),
        Silent(),
    )


def columns(model, own: bool) -> tuple[Tensor, Tensor]:
    """c and c*, from positions written down by hand."""
    pairs = recipe.parse(RECIPE).edit_pairs()
    C, T = (
        contexts(token_states(model), tokenise(model.tokenizer, [pair[side] for pair in pairs]))
        for side in (0, 1)
    )
    left, right = [], []
    for row, (same, subject, (a, b)) in enumerate(zip(SAME, OWN, SUBJECT_ENDS, strict=True)):
        after = [(a + k, b + k) for k in range(1, C.shape[1] - a)]
        for i, j in (*same, *(subject if own else ()), *after):
            left.append(C[row, i]), right.append(T[row, j])
    return torch.stack(left, 1), torch.stack(right, 1)


@pytest.mark.parametrize("own", [True, False])
def test_every_layer_gets_the_printed_weights(model, own: bool):
    result = edit(model, f"edit.own_tokens={str(own).lower()}", "edit.lam=0.5", "edit.preserve=0.3")
    K = prompt_columns(token_states(model), recipe.parse(RECIPE).preserve_prompts(), "all")
    (C, C_star), (C_other, _) = columns(model, own), columns(model, not own)
    assert C.shape[1] != C_other.shape[1]
    M = 0.5 * torch.eye(len(C), dtype=torch.float64) + C @ C.T + 0.3 * K @ K.T
    assert set(result.weights) == {("unet", site.parameter) for site in pick(model)}
    for site in pick(model):
        W = site.module.weight.double()
        wanted = (0.5 * W + W @ C_star @ C.T + 0.3 * W @ K @ K.T) @ torch.linalg.inv(M)
        assert relative(result.weights["unet", site.parameter], wanted) < 1e-7
        assert relative(W, wanted) > 1e-3


def outputs_from_target(
    model, result, prompt: str, target: str, position: int, target_position: int
) -> float:
    """How far a token's outputs are from those beside the target, in units of how far they were."""
    c = contexts(token_states(model), tokenise(model.tokenizer, [prompt]))[0, position]
    c_star = contexts(token_states(model), tokenise(model.tokenizer, [target]))[0, target_position]
    now, before = [], []
    for site in pick(model):
        W = site.module.weight.double()
        (
            now.append(result.weights["unet", site.parameter] @ c - W @ c_star),
            before.append(W @ c - W @ c_star),
        )
    return float(torch.cat(now).norm() / torch.cat(before).norm())


def test_words_around_the_concept_lose_it_and_its_own_tokens_only_if_asked(model):
    published, ours = (
        edit(model, "edit.own_tokens=false", "edit.lam=0.001"),
        edit(model, "edit.lam=0.001"),
    )
    for result in (published, ours):
        assert (
            outputs_from_target(model, result, "van gogh picture", "monet picture", 3, 2) < 0.4
        )  # "picture"
        assert (
            outputs_from_target(model, result, "van gogh picture", "monet picture", 10, 9) < 0.6
        )  # padding
    own = [
        outputs_from_target(model, result, "van gogh picture", "monet picture", 2, 1)
        for result in (published, ours)
    ]
    assert own[1] < 0.6 and own[1] < 0.7 * own[0]


def test_words_before_the_concept_stay(model):
    """They have not seen it: what is asked of them is what they put out."""
    result = edit(model, "edit.lam=0.001")
    c = contexts(token_states(model), tokenise(model.tokenizer, ["a painting by van gogh"]))[0]
    for site in pick(model):
        W, new = site.module.weight.double(), result.weights["unet", site.parameter]
        moved = ((new - W) @ c.T).norm(dim=0) / (W @ c.T).norm(dim=0)
        assert float(moved[:4].max()) < 0.6 * float(moved[5])


def test_preserve_prompts_hold_what_they_name(model):
    with_, without = (
        edit(model, "edit.preserve=10.0", "edit.lam=0.1"),
        edit(model, "edit.preserve=0.0001", "edit.lam=0.1"),
    )
    assert all(
        a.preserve_drift < 0.5 * b.preserve_drift
        for a, b in zip(with_.sites, without.sites, strict=True)
    )


def test_parameters_and_name():
    assert "mace-cf" in methods.names() and methods.get("mace-cf") is mace_cf
    read = mace_cf.Parameters().edit
    assert (read.lam, read.preserve, read.own_tokens) == (10.0, 0.8, True)
    for bad in ({"edit": {"lam": 0}}, {"edit": {"lora": True}}, {"refine": {}}):
        with pytest.raises(ValidationError):
            mace_cf.Parameters.model_validate(bad)


def test_the_embedded_model_forgets(tmp_path: Path):
    found = erase(tmp_path, "mace-cf")
    assert (
        found.before.dogs >= 0.75 and found.before.others >= 0.75
    )  # the control: it did draw them
    assert found.after.dogs <= 0.25
    assert found.after.others >= found.before.others - 0.25
    assert found.applied.check["moved"] > 0.5
