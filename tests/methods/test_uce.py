"""UCE: its ridge regression against 50 digits and against its own optimality, and what it does to
real pipelines.
"""

from __future__ import annotations

from pathlib import Path

import mpmath
import pytest
import torch
from concept_pictures import erase
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import tiny_sd
from pydantic import ValidationError
from torch import Tensor

from forgetcli import methods, models, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.context_columns import pair_columns, prompt_columns
from forgetcli.editing.context_layers import pick
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import EditError
from forgetcli.linalg import ridge_map
from forgetcli.methods import uce
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
method = "uce"
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
"""


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def posed(
    dim: int, concepts: int, preserved: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W (3, d), c and c* (d, n), c_p (d, p)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        draw(generator, 3, dim),
        draw(generator, dim, concepts),
        draw(generator, dim, concepts),
        draw(generator, dim, preserved),
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# the closed form


@settings(derandomize=True, max_examples=12, deadline=None)
@given(
    st.integers(3, 16),
    st.integers(1, 20),
    st.integers(0, 20),
    st.floats(-2, 2),
    st.floats(-1, 1),
    st.integers(0, 2**31),
)
def test_gradient_is_zero_at_the_solution_and_not_nearby(
    dim: int, concepts: int, preserved: int, lam: float, keep: float, seed: int
):
    W, C, C_star, K = posed(dim, concepts, preserved, seed)
    lam, erase_weight, keep = 10**lam, 1.5, 10**keep
    solution = W + W @ ridge_map(C, C_star, K, lam, erase_weight, keep).matrix

    def objective(edited: Tensor) -> Tensor:
        return (
            erase_weight * ((edited @ C - W @ C_star) ** 2).sum()
            + keep * ((edited @ K - W @ K) ** 2).sum()
            + lam * ((edited - W) ** 2).sum()
        )

    def gradient(edited: Tensor) -> float:
        edited = edited.clone().requires_grad_()
        return float(torch.autograd.grad(objective(edited), edited)[0].norm())

    start = gradient(W)
    assert gradient(solution) < 1e-9 * start
    step = 1e-3 * torch.ones_like(solution)
    assert gradient(solution + step) > 1e-6 * start
    assert objective(solution + step) > objective(solution) < objective(solution - step)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_papers_equation_at_50_digits(seed: int):
    W, C, C_star, K = posed(6, 3, 4, seed)
    lam, weight, keep = 0.3, 2.0, 0.7
    with mpmath.workdps(50):
        w, c, c_star, k = (mpmath.matrix(matrix.tolist()) for matrix in (W, C, C_star, K))
        lam_, weight_, keep_ = (mpmath.mpf(value) for value in (lam, weight, keep))
        inverse = (lam_ * mpmath.eye(6) + weight_ * c * c.T + keep_ * k * k.T) ** -1
        exact = (lam_ * w + weight_ * w * c_star * c.T + keep_ * w * k * k.T) * inverse
        wanted = torch.tensor(
            [[float(x) for x in row] for row in exact.tolist()], dtype=torch.float64
        )
        system = torch.tensor(
            [[float(x) for x in row] for row in (inverse**-1).tolist()], dtype=torch.float64
        )
    found = ridge_map(C, C_star, K, lam, weight, keep)
    assert relative(W + W @ found.matrix, wanted) < 1e-12
    assert relative(W + W @ ridge_map(C, C_star, K, lam, weight, 2 * keep).matrix, wanted) > 1e-3
    assert found.rcond == pytest.approx(1 / float(torch.linalg.cond(system)))


def test_preserved_outputs_move_less_with_their_term():
    W, C, C_star, K = posed(16, 4, 6, seed=1)

    def moved(keep: float) -> float:
        return float((W @ ridge_map(C, C_star, K, 0.1, keep=keep).matrix @ K).norm())

    assert moved(100.0) < 0.1 * moved(1.0) < 0.1 * moved(0.0)
    assert moved(0.0) == pytest.approx(
        float((W @ ridge_map(C, C_star, K[:, :0], 0.1).matrix @ K).norm())
    )


def test_concept_that_is_preserved_too_ends_half_way():
    """Why such columns are left out of what is preserved: the sums contradict one another."""
    W, C, C_star, _ = posed(8, 1, 0, seed=2)
    torn = W @ ridge_map(C, C_star, C, lam=1e-9).matrix @ C
    assert relative(torn, W @ (C_star - C) / 2) < 1e-6
    assert (
        relative(W @ ridge_map(C, C_star, C[:, :0], lam=1e-9).matrix @ C, W @ (C_star - C)) < 1e-6
    )


def test_a_column_twice_has_twice_the_weight():
    _, C, C_star, K = posed(8, 3, 4, seed=3)
    twice = ridge_map(C.repeat(1, 2), C_star.repeat(1, 2), K, 0.3).matrix
    assert relative(twice, ridge_map(C, C_star, K, 0.3, erase=2.0).matrix) < 1e-12
    assert relative(twice, ridge_map(C, C_star, K, 0.3).matrix) > 1e-3


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("edit.lambda", {"lam": 0.0}),
        ("edit.lambda", {"lam": float("nan")}),
        ("edit.lambda", {"lam": float("inf")}),
        ("edit.keys-not-finite", {"concepts": torch.tensor([[float("nan")]], dtype=torch.float64)}),
        ("edit.keys-not-finite", {"preserve": torch.tensor([[float("inf")]], dtype=torch.float64)}),
        (
            "edit.singular",
            {"lam": 1e-30, "concepts": torch.zeros(1, 1), "erase": 1.0, "keep": -1.0},
        ),
    ],
)
def test_refusals(code: str, arguments: dict):
    good = {
        "concepts": torch.ones(1, 1),
        "targets": torch.ones(1, 1),
        "preserve": torch.ones(1, 1),
        "lam": 1.0,
    }
    ridge_map(**good)
    with pytest.raises(EditError) as caught:
        ridge_map(**{**good, **arguments})
    assert caught.value.code == code


# the method


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return models.load(
        base.resolve(tiny_sd(tmp_path_factory.mktemp("uce") / "sd", torch.float32)), device="cpu"
    )


def edit(model, *overrides: str):
    read = recipe.parse(RECIPE, overrides=overrides)
    return methods.load_edit("uce")(
        model,
        task_of(read, model.base, MomentCache()),
        uce.Parameters.model_validate(read.parameters),
        Silent(),
    )


@pytest.mark.parametrize("positions", ["last", "from-last", "all"])
def test_every_layer_gets_the_papers_weights(model, positions: str):
    result = edit(
        model, f"edit.positions={positions}", "edit.lam=0.3", "edit.preserve=0.7", "edit.erase=2.0"
    )
    read = recipe.parse(RECIPE)
    pairs = pair_columns(token_states(model), read.edit_pairs(), positions)
    C, C_star, K = (
        pairs.concepts,
        pairs.targets,
        prompt_columns(token_states(model), read.preserve_prompts(), positions, pairs),
    )
    M = 0.3 * torch.eye(len(C), dtype=torch.float64) + 2.0 * C @ C.T + 0.7 * K @ K.T
    assert set(result.weights) == {("unet", site.parameter) for site in pick(model)}
    for site in pick(model):
        W = site.module.weight.double()
        wanted = (0.3 * W + 2.0 * W @ C_star @ C.T + 0.7 * W @ K @ K.T) @ torch.linalg.inv(M)
        assert relative(result.weights["unet", site.parameter], wanted) < 1e-8
        assert relative(W, wanted) > 1e-3


def test_preserve_prompts_hold_what_they_name(model):
    with_, without = edit(model, "edit.preserve=10.0"), edit(model, "edit.preserve=0.0001")
    assert all(
        a.preserve_drift < 0.3 * b.preserve_drift
        for a, b in zip(with_.sites, without.sites, strict=True)
    )
    assert all(
        a.fit > b.fit for a, b in zip(with_.sites, without.sites, strict=True)
    )  # which has its price
    assert all(s.heldout_drift > 0 for s in with_.sites)


def test_parameters_are_the_published_ones_and_nothing_else_is_taken():
    read = uce.Parameters().edit
    assert (read.lam, read.erase, read.preserve, read.positions) == (0.5, 1.0, 1.0, "last")
    for bad in (
        {"edit": {"lam": 0}},
        {"edit": {"lamda": 1.0}},
        {"refine": {}},
        {"edit": {"positions": "first"}},
    ):
        with pytest.raises(ValidationError):
            uce.Parameters.model_validate(bad)


def test_the_embedded_model_forgets(tmp_path: Path):
    found = erase(tmp_path, "uce")
    assert (
        found.before.dogs >= 0.75 and found.before.others >= 0.75
    )  # the control: it did draw them
    assert found.after.dogs <= 0.25
    assert found.after.others >= found.before.others - 0.25
    assert found.applied.check["moved"] > 0.5
