"""SPEED: its constrained edit against the printed formula, 50 digits and its KKT conditions; its
prior; real pipelines.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from forgetcli.linalg import (
    Projector,
    augmented,
    centroids,
    constrained_map,
    most_moved,
    null_projector,
    ridge_map,
    weak_directions,
)
from forgetcli.linalg.speed import complement
from forgetcli.methods import speed
from forgetcli.methods.speed import edit as algorithm
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
method = "speed"
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}", "{} picture"]

[preserve]
prior = "none"
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet", "a starry night"]

[edit]
min_rank = 0

[prior]
copies = 2
empty = true
"""  # noqa: E501


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@dataclass(frozen=True)
class Problem:
    """W (3, d), c and c* (d, n), K₂ (d, 2), P of rank d − 3, and α."""

    W: Tensor
    C: Tensor
    C_star: Tensor
    K2: Tensor
    projector: Projector
    alpha: float

    def delta(self, lam: float, K2: Tensor | None = None) -> Tensor:
        return (
            self.W
            @ constrained_map(
                self.C, self.C_star, self.projector, self.K2 if K2 is None else K2, self.alpha, lam
            ).matrix
        )

    def published(self, lam: float) -> Tensor:
        """The printed formula, with its inverses, none of which is of a symmetric matrix."""
        P, eye = self.projector.matrix(), torch.eye(len(self.C), dtype=torch.float64)
        M = torch.linalg.inv(self.C @ self.C.T @ P + self.alpha * eye)
        inner = torch.linalg.inv(
            self.K2.T @ P @ M @ self.K2 + lam * torch.eye(self.K2.shape[1], dtype=torch.float64)
        )
        D = (self.C_star - self.C) @ self.C.T
        return self.W @ D @ P @ (eye - M @ self.K2 @ inner @ self.K2.T @ P) @ M


def problem(dim: int, tokens: int, alpha: float, seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    prior = draw(dim, 3)
    projector = null_projector(prior @ prior.T, 1e-9, min_rank=0)
    assert projector.rank == dim - 3
    return Problem(
        draw(3, dim), draw(dim, tokens), draw(dim, tokens), draw(dim, 2), projector, alpha
    )


@st.composite
def problems(draw) -> Problem:
    return problem(
        draw(st.integers(6, 16)),
        draw(st.integers(1, 20)),
        10 ** draw(st.floats(-1, 1)),
        draw(st.integers(0, 2**31)),
    )


some = settings(derandomize=True, max_examples=12, deadline=None)


# the closed form


@some
@given(problems())
def test_it_is_the_printed_formula(posed: Problem):
    for lam in (0.0, 1e-3, 0.5):
        assert relative(posed.delta(lam), posed.published(lam)) < 1e-7
    assert relative(posed.delta(0.0), posed.published(0.5)) > 1e-4  # λ matters
    assert relative(posed.delta(0.0, posed.K2[:, :1]), posed.published(0.0)) > 1e-6


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_it_is_the_printed_formula_at_50_digits(lam: float):
    posed = problem(dim=7, tokens=3, alpha=0.5, seed=0)
    with mpmath.workdps(50):
        W, C, C_star, K2, U = (
            mpmath.matrix(m.tolist())
            for m in (posed.W, posed.C, posed.C_star, posed.K2, posed.projector.basis)
        )
        P, eye = U * U.T, mpmath.eye(7)
        M = (C * C.T * P + mpmath.mpf(posed.alpha) * eye) ** -1
        bracket = (
            eye - M * K2 * (K2.T * P * M * K2 + mpmath.mpf(lam) * mpmath.eye(2)) ** -1 * K2.T * P
        )
        exact = W * (C_star - C) * C.T * P * bracket * M
        wanted = torch.tensor(
            [[float(x) for x in row] for row in exact.tolist()], dtype=torch.float64
        )
    assert relative(posed.delta(lam), wanted) < 1e-11
    assert relative(posed.delta(lam + 0.1), wanted) > 1e-3


def objective(posed: Problem, delta: Tensor, penalty: float) -> Tensor:
    """‖(W + Δ)C − W C*‖² + α‖Δ‖² + penalty·‖Δ K₂‖²."""
    return (
        (((posed.W + delta) @ posed.C - posed.W @ posed.C_star) ** 2).sum()
        + posed.alpha * (delta**2).sum()
        + penalty * ((delta @ posed.K2) ** 2).sum()
    )


def gradient(posed: Problem, delta: Tensor, penalty: float = 0.0) -> Tensor:
    delta = delta.clone().requires_grad_()
    return torch.autograd.grad(objective(posed, delta, penalty), delta)[0]


@some
@given(problems())
def test_kkt_conditions_of_the_hard_constraint(posed: Problem):
    delta, P = posed.delta(0.0), posed.projector.matrix()
    assert float((delta @ posed.K2).norm()) < 1e-10 * float(
        posed.K2.norm() * posed.W.norm()
    )  # feasible
    assert float((delta - delta @ P).norm()) < 1e-10 * float(posed.W.norm())  # Δ = ΔP
    unprotected = (
        posed.W
        @ constrained_map(
            posed.C, posed.C_star, posed.projector, posed.K2[:, :0], posed.alpha
        ).matrix
    )
    assert float((unprotected @ posed.K2).norm()) > 1e-3

    free = complement(
        torch.cat([torch.eye(len(P), dtype=torch.float64) - P, posed.K2], 1)
    )  # directions that are feasible
    start = float((gradient(posed, torch.zeros_like(delta)) @ free).norm())
    assert float((gradient(posed, delta) @ free).norm()) < 1e-9 * start
    assert float((gradient(posed, 0.99 * delta) @ free).norm()) > 1e-3 * start
    assert objective(posed, unprotected, 0) < objective(
        posed, delta, 0
    )  # the constraint does cost something
    step = 1e-3 * torch.ones(3, free.shape[1], dtype=torch.float64) @ free.T
    assert (
        objective(posed, delta + step, 0)
        > objective(posed, delta, 0)
        < objective(posed, delta - step, 0)
    )


@some
@given(problems(), st.floats(-2, 1))
def test_lambda_is_a_penalty_of_one_over_lambda(posed: Problem, lam: float):
    lam = 10**lam
    P, delta = posed.projector.matrix(), posed.delta(lam)
    start = float((gradient(posed, torch.zeros_like(delta), 1 / lam) @ P).norm())
    assert float((gradient(posed, delta, 1 / lam) @ P).norm()) < 1e-9 * start
    assert float((gradient(posed, delta, 2 / lam) @ P).norm()) > 1e-6 * start
    assert relative(delta @ P, delta) < 1e-10


def test_the_constraint_is_met_as_lambda_goes_to_zero():
    posed = problem(dim=10, tokens=4, alpha=1.0, seed=1)
    moved = [float((posed.delta(lam) @ posed.K2).norm()) for lam in (1e6, 1.0, 1e-3, 1e-6, 0.0)]
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-12 < 1e-6 * moved[0]
    assert relative(posed.delta(1e-9), posed.delta(0.0)) < 1e-6
    assert moved[0] == pytest.approx(
        float((posed.delta(0.0, posed.K2[:, :0]) @ posed.K2).norm()), rel=1e-4
    )


def test_an_invariant_that_is_preserved_already_does_no_harm():
    """Its part in the null space is rounding: the printed formula divides by it, a basis of the
    complement does not.
    """
    posed = problem(dim=10, tokens=4, alpha=1.0, seed=2)
    eye = torch.eye(10, dtype=torch.float64)
    inside = ((eye - posed.projector.matrix()) @ posed.K2)[:, :1]  # P k = 0 but for rounding
    found = posed.delta(0.0, torch.cat([inside, posed.K2, posed.K2[:, :1]], 1))
    assert float((found @ posed.K2).norm()) < 1e-12 and float((found @ inside).norm()) < 1e-12
    assert relative(posed.delta(0.0), posed.delta(0.0, posed.K2[:, :1])) > 1e-3
    assert torch.isfinite(found).all() and float(found.norm()) > 0.1 * float(
        posed.delta(0.0).norm()
    )


def test_complement_is_orthonormal_and_orthogonal_to_the_columns():
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(6, 2, generator=generator, dtype=torch.float64) * torch.tensor(
        [1.0, 1e-9]
    )
    basis = complement(torch.cat([columns, columns.sum(1, keepdim=True), torch.zeros(6, 1)], 1))
    assert basis.shape == (6, 4)
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert (
        float((basis.T @ (columns / columns.norm(dim=0))).norm()) < 1e-7
    )  # the small one is a constraint, too
    assert (
        complement(torch.zeros(3, 1, dtype=torch.float64)).shape
        == (3, 3)
        == complement(torch.empty(3, 0, dtype=torch.float64)).shape
    )


def test_preserved_outputs_move_less_with_the_projector():
    posed = problem(dim=12, tokens=4, alpha=1.0, seed=3)
    preserved = (torch.eye(12, dtype=torch.float64) - posed.projector.matrix()) @ posed.C
    free = (
        posed.W
        @ constrained_map(posed.C, posed.C_star, Projector.identity(12), posed.K2, 1.0).matrix
    )
    assert (
        float((posed.delta(0.0) @ preserved).norm())
        < 1e-10
        < 1e-3
        < float((free @ preserved).norm())
    )


def bad(value: float) -> Tensor:
    return torch.full((4, 1), value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("edit.alpha", {"alpha": 0.0}),
        ("edit.alpha", {"alpha": float("inf")}),
        ("edit.lambda", {"lam": -1.0}),
        ("edit.lambda", {"lam": float("nan")}),
        ("edit.keys-not-finite", {"concepts": bad(float("nan"))}),
        ("edit.keys-not-finite", {"invariants": bad(float("inf"))}),
        ("edit.no-null-space", {"invariants": torch.eye(4, dtype=torch.float64)}),
        ("edit.singular", {"alpha": 1e-320}),
    ],
)
def test_refusals(code: str, change: dict):
    good = {
        "concepts": bad(1.0),
        "targets": bad(2.0),
        "projector": Projector.identity(4),
        "invariants": bad(0.0),
        "alpha": 1.0,
        "lam": 0.0,
    }
    constrained_map(**good)
    with pytest.raises(EditError) as caught:
        constrained_map(**{**good, **change})
    assert caught.value.code == code


# the prior


def test_most_moved_are_those_above_the_mean():
    columns = torch.tensor([[1.0, 2.0, 3.0, 10.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    first_only = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert most_moved(columns, first_only).tolist() == [[10.0], [5.0]]
    assert most_moved(columns, first_only.flip(1)).shape == (
        2,
        4,
    )  # all alike: all of them, not none
    assert most_moved(columns[:, :1], first_only).tolist() == [[1.0], [5.0]]
    assert most_moved(columns, 0 * first_only).shape == (2, 4)


@pytest.mark.parametrize("height", [3, 8, 12], ids=["wide", "square", "tall"])
def test_copies_differ_where_the_layer_hardly_looks(height: int):
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        for n in (height, 8)
    )
    rank = min(height, 8)
    W = (
        left[:, :rank] * torch.logspace(0, -3, rank, dtype=torch.float64) @ right[:rank]
    )  # σ from 1 to 0.001
    columns = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    copies = augmented(columns, W, 40, 1, generator)
    noise = copies - columns.repeat(1, 40)
    assert copies.shape == (8, 200)
    assert (
        0.8 < float(noise.norm(dim=0).pow(2).mean()) < 1.25
    )  # a standard normal along one direction
    assert float((W @ noise).norm()) <= 1e-3 * float(noise.norm()) * (1 + 1e-9)
    assert (
        float((W @ torch.randn(8, 200, generator=generator, dtype=torch.float64)).norm())
        > 0.1 * 200**0.5
    )
    V = weak_directions(W, 1)
    assert relative((V @ V.T) @ noise, noise) < 1e-12
    assert float((W @ V).norm()) == pytest.approx(
        1e-3, rel=1e-6
    )  # the weakest that W has: not its null space
    two = augmented(columns, W, 40, 2, generator) - columns.repeat(1, 40)
    assert relative((V @ V.T) @ two, two) > 0.1


def test_centroids_are_means_of_what_is_nearest():
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 10.0, 0.0], [0.0, 0.0, 10.0]], dtype=torch.float64)
    columns = middles.repeat_interleave(8, 1) + 0.1 * torch.randn(
        2, 24, generator=generator, dtype=torch.float64
    )
    found = centroids(columns, 3)
    assert torch.allclose(found, torch.stack([part.mean(1) for part in columns.split(8, 1)], 1))
    assert not torch.allclose(found, columns[:, [4, 12, 20]], atol=1e-3)  # not where it began
    assert torch.equal(centroids(columns, 3), found)
    assert torch.equal(centroids(columns[:, :2], 3), columns[:, :2])


# the method


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return models.load(
        base.resolve(tiny_sd(tmp_path_factory.mktemp("speed") / "sd", torch.float32)), device="cpu"
    )


def edit(model, *overrides: str):
    read = recipe.parse(RECIPE, overrides=overrides)
    return methods.load_edit("speed")(
        model,
        task_of(read, model.base, MomentCache()),
        speed.Parameters.model_validate(read.parameters),
        Silent(),
    )


def change(model, result, site) -> Tensor:
    return result.weights["unet", site.parameter] - site.module.weight.double()


@pytest.mark.parametrize("layers", ["values", "keys", "both"])
def test_only_the_layers_asked_for_are_edited(model, layers: str):
    wanted = {"values": ["to_v"], "keys": ["to_k"], "both": ["to_k", "to_v"]}[layers]
    result = edit(model, f"edit.layers={layers}")
    assert set(result.weights) == {("unet", site.parameter) for site in pick(model, wanted)}
    assert all(report.delta_rel > 1e-6 for report in result.sites)


def test_the_start_token_and_the_means_of_the_empty_prompt_do_not_move(model):
    empty = prompt_columns(token_states(model), [""], "all")
    K2 = torch.cat([empty[:, :1], centroids(empty[:, 1:], 3)], 1)
    hard, soft = edit(model), edit(model, "edit.lam=1000.0")
    for site in pick(model, ["to_v"]):
        size = float((site.module.weight.double() @ K2).norm())
        assert float((change(model, hard, site) @ K2).norm()) < 1e-10 * size
        assert float((change(model, soft, site) @ K2).norm()) > 1e-6 * size


def test_a_layers_edit_is_the_printed_formula_with_its_own_prior(model):
    result = edit(model, "prior.copies=0", "edit.lam=0.5", "edit.alpha=0.7")
    read = recipe.parse(RECIPE)
    pairs = pair_columns(token_states(model), read.edit_pairs(), "last")
    n, K0 = (
        pairs.concepts.shape[1],
        prompt_columns(token_states(model), read.preserve_prompts(), "last", pairs),
    )
    C, C_star = pairs.concepts / n**0.5, pairs.targets / n**0.5
    empty, priors = prompt_columns(token_states(model), [""], "all"), set()
    for site, report in zip(pick(model, ["to_v"]), result.sites, strict=True):
        W = site.module.weight.double()
        plain = (
            W
            @ (C_star - C)
            @ C.T
            @ torch.linalg.inv(torch.eye(len(C), dtype=torch.float64) + C @ C.T)
        )
        moved = (plain @ K0).norm(dim=0)
        kept = K0[:, moved > moved.mean()]
        priors.add(kept.shape[1])
        projector = null_projector(kept @ kept.T / kept.shape[1], 0.1, 0)
        posed = Problem(
            W, C, C_star, torch.cat([empty[:, :1], centroids(empty[:, 1:], 3)], 1), projector, 0.7
        )
        assert relative(change(model, result, site), posed.published(0.5)) < 1e-6
        unfiltered = Problem(
            W, C, C_star, posed.K2, null_projector(K0 @ K0.T / K0.shape[1], 0.1, 0), 0.7
        )
        assert relative(change(model, result, site), unfiltered.published(0.5)) > 1e-3
        assert report.null_dim == projector.rank and report.eig_below < 0.1 <= report.eig_above
        assert 0 < kept.shape[1] < K0.shape[1]


def test_the_prior_holds_what_would_be_moved_most(model):
    read = recipe.parse(RECIPE)
    pairs = pair_columns(token_states(model), read.edit_pairs(), "last")
    preserve = prompt_columns(token_states(model), read.preserve_prompts(), "last", pairs)
    with_, without = (
        edit(model, "edit.threshold=0.001"),
        edit(model, "edit.min_rank=32"),
    )  # 32: all directions are free
    for site in pick(model, ["to_v"]):
        W = site.module.weight.double()
        held = most_moved(
            preserve, W @ ridge_map(pairs.concepts, pairs.targets, preserve[:, :0], 1.0).matrix
        )
        moved, free = (
            float((change(model, result, site) @ held).norm()) for result in (with_, without)
        )
        assert moved < 0.3 * free


def test_the_empty_prompt_is_left_to_the_invariants(model):
    """Its columns are far from the prompts': among them they take directions from the edit."""
    without = edit(model, "prior.empty=false", "prior.filter=false")
    with_ = edit(model, "prior.filter=false")
    for a, b in zip(without.sites, with_.sites, strict=True):
        assert a.null_dim > b.null_dim
    size = float(prompt_columns(token_states(model), [""], "all")[:, 0].norm())
    for site in pick(model, ["to_v"]):
        start = prompt_columns(token_states(model), [""], "all")[:, 0]
        assert float((change(model, without, site) @ start).norm()) < 1e-10 * size


def test_a_narrow_encoder_leaves_something_to_edit(model):
    """More prompts than the encoder is wide: without a smallest dimension nothing is left."""
    words = [
        f"a {word} picture of a {thing}"
        for word in ("cat", "dog", "house", "night", "monet")
        for thing in ("cat", "dog", "sketch", "house", "painting", "night", "pencil", "starry")
    ]
    prompts = f"preserve.prompts={words!r}"
    tight = ("edit.threshold=1e-9", "prior.filter=false", "prior.copies=10")
    with pytest.raises(EditError) as refused:
        edit(model, prompts, *tight)
    assert refused.value.code == "edit.no-null-space"
    default = speed.Parameters().edit.min_rank
    done = edit(model, prompts, *tight, f"edit.min_rank={default}")
    assert all(site.null_dim == default and site.delta_rel > 0 for site in done.sites)


def test_copies_are_drawn_from_the_recipes_seed(model):
    first, again, other = edit(model), edit(model), edit(model, "seed=1")
    for key, weight in first.weights.items():
        assert torch.equal(weight, again.weights[key])
        assert not torch.equal(weight, other.weights[key])


def test_without_anything_to_preserve_only_the_invariants_bind(model):
    W = pick(model, ["to_v"])[0].module.weight.double()
    nothing = torch.empty(W.shape[1], 0, dtype=torch.float64)
    found = algorithm.prior(W, nothing, nothing, nothing, speed.Parameters(), torch.Generator())
    assert found.rank == W.shape[1]


def test_parameters_are_the_published_ones_and_nothing_else_is_taken():
    read = speed.Parameters()
    assert (
        read.edit.alpha,
        read.edit.lam,
        read.edit.threshold,
        read.edit.invariants,
        read.edit.layers,
    ) == (1.0, 0.0, 0.1, 3, "values")
    assert (read.prior.filter, read.prior.copies, read.prior.directions) == (True, 10, 1)
    for wrong in (
        {"edit": {"alpha": 0}},
        {"edit": {"lam": -1.0}},
        {"prior": {"copy": 1}},
        {"prior": {"directions": 0}},
        {"refine": {}},
    ):
        with pytest.raises(ValidationError):
            speed.Parameters.model_validate(wrong)


def test_the_embedded_model_forgets(tmp_path: Path):
    found = erase(tmp_path, "speed")
    assert (
        found.before.dogs >= 0.75 and found.before.others >= 0.75
    )  # the control: it did draw them
    assert found.after.dogs <= 0.25
    assert found.after.others >= found.before.others - 0.25
    assert found.applied.check["moved"] > 0.5
    assert all(site.name.endswith("to_v") for site in found.applied.sites)
