"""DP on a tiny real pipeline and on the embedded model; its mathematics is tested in
tests/linalg/test_double_projection.py.
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
from forgetcli.editing.context_columns import pair_columns, prompt_columns
from forgetcli.editing.context_layers import pick
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import EditError
from forgetcli.methods import dp
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
method = "dp"
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}", "{} picture"]

[preserve]
prior = "none"
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[[retain]]
concept = "dog"
direct = ["a dog by monet"]

[edit]
threshold = 1e-20
cutoff = 0.0
empty = false
min_rank = 0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("dp") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def edit(model, *overrides: str) -> Edit:
    read = recipe.parse(RECIPE, overrides=overrides)
    return methods.load_edit("dp")(
        model,
        task_of(read, model.base, MomentCache()),
        dp.Parameters.model_validate(read.parameters),
        Silent(),
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def columns(model, positions="last") -> tuple[Tensor, Tensor, Tensor]:
    """C, C* and K of the recipe, without the empty prompt."""
    read = recipe.parse(RECIPE)
    source = token_states(model)
    pairs = pair_columns(source, read.edit_pairs(), positions)
    prompts = [prompt for prompt in read.preserve_prompts() if prompt]
    return pairs.concepts, pairs.targets, prompt_columns(source, prompts, positions, pairs)


def safe(C: Tensor, S: Tensor) -> Tensor:
    """S (SᵀS)⁺ Sᵀ C, as printed."""
    return S @ torch.linalg.pinv(S.T @ S, rtol=1e-10) @ S.T @ C


@pytest.mark.parametrize("proxy", ["target", "targets", "safe"])
def test_every_layer_gets_the_papers_change(model, proxy: str) -> None:
    C, C_star, K = columns(model)
    S = {"target": None, "targets": C_star, "safe": torch.cat([C_star, K], 1)}[proxy]
    goals = C_star if S is None else safe(C, S)
    P = torch.eye(len(C), dtype=torch.float64) - K @ torch.linalg.pinv(K)
    T = (goals - C) @ torch.linalg.pinv(P @ C, rtol=1e-12)
    result = edit(model, f"edit.proxy={proxy}", "edit.safe_energy=1.0")
    assert set(result.weights) == {("unet", site.parameter) for site in pick(model)}
    for site, report in zip(pick(model), result.sites, strict=True):
        W = site.module.weight.double()
        change = result.weights["unet", site.parameter] - W
        assert relative(change, W @ T) < 1e-6
        assert relative(change @ C, W @ (goals - C)) < 1e-6  # the whole way
        assert float((change @ K).norm()) < 1e-10 * float((W @ K).norm())
        assert report.fit < 1e-6 and report.preserve_drift < 1e-10 < report.heldout_drift
        assert report.null_dim == len(C) - int(torch.linalg.matrix_rank(K))


def test_without_the_second_projection_preserved_outputs_move(model) -> None:
    _, _, K = columns(model)
    free = edit(model, f"edit.min_rank={len(K)}")
    assert all(site.preserve_drift > 1e-4 for site in free.sites)


def test_the_layers_that_were_asked_for_are_edited(model) -> None:
    for layers, names in (("values", ["to_v"]), ("keys", ["to_k"])):
        weights = edit(model, f"edit.layers={layers}").weights
        assert set(weights) == {("unet", site.parameter) for site in pick(model, names)}


def test_more_is_held_where_more_is_asked(model) -> None:
    """The prior and the empty prompt take free directions; truncation gives them back."""
    plain, empty = edit(model), edit(model, "edit.empty=true")
    prior = edit(model, "preserve.prior=words", "preserve.prior_words=5")
    loose = edit(model, "edit.empty=true", "edit.threshold=1.0")
    dims = [found.sites[0].null_dim for found in (plain, empty, prior, loose)]
    assert dims[0] > dims[1] < dims[3] and dims[0] > dims[2]
    assert edit(model, "preserve.prior=words", "edit.prior=0.0").sites == plain.sites


def test_prompts_that_leave_nothing_free_are_refused(model) -> None:
    words = [f"a {a} {b}" for a in ("cat", "dog", "house", "night") for b in ("by monet", "sketch")]
    every = (f"preserve.prompts={words!r}", "edit.positions=all", "edit.empty=true")
    with pytest.raises(EditError) as refused:
        edit(model, *every)
    assert refused.value.code == "edit.no-null-space"
    default = dp.Parameters().edit.min_rank
    done = edit(model, *every, f"edit.min_rank={default}")
    assert all(site.null_dim >= default and site.delta_rel > 0 for site in done.sites)


def test_settings_that_cannot_be_are_refused() -> None:
    for table in (
        {"threshold": 0},
        {"cutoff": 1.0},
        {"proxy": "none"},
        {"safe_energy": 0},
        {"k": 3},
    ):
        with pytest.raises(ValidationError):
            dp.Parameters.model_validate({"edit": table})


def test_the_embedded_model_forgets(tmp_path: Path) -> None:
    found = erase(tmp_path, "dp")
    assert found.before.dogs >= 0.75 and found.before.others >= 0.75  # the control
    assert found.after.dogs <= 0.25
    assert found.after.others >= found.before.others - 0.25
    assert found.applied.check["moved"] > 0.5
