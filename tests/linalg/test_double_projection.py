"""DP's two projections: against 50 digits, and what their theorems claim."""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import pytest
import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg import (
    Projector,
    left_null_map,
    left_null_space,
    ridge_map,
    safe_proxies,
    span,
)


@dataclass(frozen=True)
class Problem:
    """W (m, d), C and C* (d, n), K (d, p)."""

    W: Tensor
    C: Tensor
    C_star: Tensor
    K: Tensor

    @staticmethod
    def of(dim: int, concepts: int, preserved: int, seed: int = 0) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        shapes = ((5, dim), (dim, concepts), (dim, concepts), (dim, preserved))
        return Problem(
            *(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
        )

    def delta(self, projector: Projector, cutoff: float = 0.0) -> Tensor:
        return self.W @ left_null_map(self.C, self.C_star, projector, cutoff).matrix


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def floats(matrix: mpmath.matrix) -> Tensor:
    return torch.tensor([[float(x) for x in row] for row in matrix.tolist()], dtype=torch.float64)


def exact_null(K: mpmath.matrix) -> mpmath.matrix:
    """The projector onto the left null space, I − K(KᵀK)⁻¹Kᵀ."""
    return mpmath.eye(K.rows) - K * (K.T * K) ** -1 * K.T


@pytest.mark.parametrize("seed", range(3))
def test_one_column_is_the_papers_equation_at_50_digits(seed: int) -> None:
    """ΔW = W(c* − c) xᵀ U₂ᵀ / ‖x‖² with x = U₂ᵀc: U₂x is the part of c in the null space."""
    posed = Problem.of(7, 1, 3, seed)
    with mpmath.workdps(50):
        W, c, c_star, K = (
            mpmath.matrix(M.tolist()) for M in (posed.W, posed.C, posed.C_star, posed.K)
        )
        part = exact_null(K) * c
        wanted = floats(W * (c_star - c) * part.T / (part.T * part)[0])
        unprojected = floats(W * (c_star - c) * c.T / (c.T * c)[0])
    found = posed.delta(left_null_space(posed.K, 1e-20, 0))
    assert relative(found, wanted) < 1e-12
    assert relative(found, unprojected) > 1e-2


@pytest.mark.parametrize(("concepts", "preserved"), [(3, 4), (6, 4)], ids=["exact", "least"])
def test_several_columns_are_the_least_squares_solution_at_50_digits(
    concepts: int, preserved: int
) -> None:
    """Few columns: Z X = B exactly. More than free directions: the normal equations."""
    posed = Problem.of(9, concepts, preserved)
    with mpmath.workdps(50):
        C, C_star, K, W = (
            mpmath.matrix(M.tolist()) for M in (posed.C, posed.C_star, posed.K, posed.W)
        )
        P = exact_null(K)
        if concepts <= 9 - preserved:
            inverse = (C.T * P * C) ** -1 * C.T * P
        else:  # (P C Cᵀ P)⁺ by an inverse on the range of P: add the rest and take it away again
            inverse = C.T * P * ((P * C * C.T * P + mpmath.eye(9) - P) ** -1) * P
        wanted = floats(W * (C_star - C) * inverse)
    found = posed.delta(left_null_space(posed.K, 1e-20, 0))
    assert relative(found, wanted) < 1e-11
    other = Problem(posed.W, posed.C, posed.C_star.flip(1), posed.K)
    assert relative(other.delta(left_null_space(posed.K, 1e-20, 0)), wanted) > 1e-2


def test_preserved_outputs_do_not_move_at_all() -> None:
    posed = Problem.of(12, 3, 5)
    size = float((posed.W @ posed.K).norm())
    held = posed.delta(left_null_space(posed.K, 1e-20, 0))
    free = posed.delta(Projector.identity(12))
    assert float((held @ posed.K).norm()) < 1e-12 * size
    assert float((free @ posed.K).norm()) > 1e-2 * size
    # The concept goes all the way to its proxy either way.
    for delta in (held, free):
        assert relative((posed.W + delta) @ posed.C, posed.W @ posed.C_star) < 1e-11


def test_columns_that_repeat_or_are_none_make_the_same_null_space() -> None:
    K = Problem.of(8, 1, 3).K
    plain = left_null_space(K, 1e-20, 0)
    mixed = torch.cat([K, K @ torch.ones(3, 2, dtype=K.dtype), 0 * K, 1e-9 * K[:, :1]], 1)
    assert plain.rank == left_null_space(mixed, 1e-20, 0).rank == 5
    assert (plain.matrix() - left_null_space(mixed, 1e-20, 0).matrix()).norm() < 1e-10
    assert left_null_space(0 * K, 1e-20, 0).rank == left_null_space(K[:, :0], 1e-20, 0).rank == 8


def test_directions_that_a_second_moment_would_round_away_are_held() -> None:
    """σ = 1e-10 of the largest: its square is below the resolution of KKᵀ."""
    K = torch.diag(torch.tensor([1.0, 1e-10, 0, 0], dtype=torch.float64))
    assert left_null_space(K, 1e-24, 0).rank == 2
    assert float((left_null_space(K, 1e-24, 0)(K)).norm()) == 0.0
    assert left_null_space(K, 1e-12, 0).rank == 3


@pytest.mark.parametrize("free", [2, 5, 8])
def test_truncation_keeps_to_the_bound_of_the_paper(free: int) -> None:
    """Theorem 4.2: ‖ΔW k‖ ≤ ‖Z‖₂ σ_{k+1}(K) for every preserved k, where K spans everything."""
    posed = Problem.of(10, 2, 40)
    projector = left_null_space(posed.K, 1e-20, free)
    assert projector.rank == free
    delta = posed.delta(projector)
    Z = delta @ projector.basis
    sigma = torch.linalg.svdvals(posed.K)
    bound = float(torch.linalg.matrix_norm(Z, 2) * sigma[10 - free])
    moved = (delta @ posed.K).norm(dim=0)
    assert 0 < float(moved.max()) <= bound * (1 + 1e-12)
    mean = float(sigma.square().mean())
    assert projector.eig_below * mean == pytest.approx(float(sigma[10 - free]) ** 2)
    assert projector.eig_above * mean == pytest.approx(float(sigma[9 - free]) ** 2)


def test_the_bound_is_reached() -> None:
    """Where a preserved column is the first free direction itself; the next σ is no bound."""
    posed = Problem.of(6, 1, 6)
    Q = torch.linalg.qr(posed.K)[0]
    sigma = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    projector = left_null_space(Q * sigma, 1e-20, 4)
    delta = Problem(posed.W, Q[:, 2:3], posed.C_star, Q).delta(projector)
    norm = float(torch.linalg.matrix_norm(delta @ projector.basis, 2))
    moved = (delta @ (Q * sigma)).norm(dim=0)
    assert float(moved.max()) == pytest.approx(norm * 3.0)
    assert float(moved.max()) > 1.4 * norm * 2.0


def test_no_other_solution_is_smaller() -> None:
    posed = Problem.of(12, 3, 4)
    projector = left_null_space(posed.K, 1e-20, 0)
    delta = posed.delta(projector)
    generator = torch.Generator().manual_seed(7)
    X = projector.basis.T @ posed.C
    beyond = torch.eye(8, dtype=torch.float64) - X @ torch.linalg.pinv(X)  # of no consequence
    for _ in range(20):
        extra = torch.randn(5, 8, generator=generator, dtype=torch.float64) @ beyond
        other = delta + 0.1 * extra @ projector.basis.T
        assert relative(other @ posed.C, delta @ posed.C) < 1e-11
        assert relative(other @ posed.K + 1, delta @ posed.K + 1) < 1e-11
        assert float(other.norm()) > float(delta.norm())


def test_the_cutoff_leaves_directions_out() -> None:
    posed = Problem.of(10, 3, 2)
    close = posed.C[:, :1] + 1e-4 * posed.C  # columns that differ by little
    posed = Problem(posed.W, close, posed.C_star, posed.K)
    projector = left_null_space(posed.K, 1e-20, 0)
    every, few = posed.delta(projector), posed.delta(projector, cutoff=1e-2)
    assert float(every.norm()) > 100 * float(few.norm())
    assert torch.linalg.matrix_rank(few, rtol=1e-9) == 1
    solved = left_null_map(posed.C, posed.C_star, projector, 0.0)
    singular = torch.linalg.svdvals(projector.basis.T @ posed.C)
    assert solved.rcond == pytest.approx(float(singular[-1] / singular[0]), rel=1e-6)
    assert left_null_map(posed.C, posed.C_star, projector, 1e-2).rcond == 1.0


def test_the_proxy_is_the_nearest_safe_vector_at_50_digits() -> None:
    posed = Problem.of(8, 2, 3)
    with mpmath.workdps(50):
        S, C = (mpmath.matrix(M.tolist()) for M in (posed.K, posed.C))
        wanted = floats(S * (S.T * S) ** -1 * S.T * C)
    assert relative(safe_proxies(posed.C, span(posed.K)), wanted) < 1e-12
    assert relative(safe_proxies(posed.C, span(posed.K[:, :2])), wanted) > 1e-2
    # Where SᵀS is singular, its pseudoinverse gives the same.
    repeated = torch.cat([posed.K, posed.K], 1)
    assert relative(safe_proxies(posed.C, span(repeated)), wanted) < 1e-12


def test_one_safe_vector_is_uces_case() -> None:
    """c* is that vector, up to its length, and with nothing preserved and λ → 0 so is the edit."""
    posed = Problem.of(6, 1, 0)
    safe = posed.C_star
    proxy = safe_proxies(posed.C, span(safe))
    share = float((safe * posed.C).sum() / safe.square().sum())
    assert relative(proxy, share * safe) < 1e-12
    ours = posed.W @ left_null_map(posed.C, proxy, Projector.identity(6), 0.0).matrix
    uce = posed.W @ ridge_map(posed.C, proxy, posed.K, lam=1e-7).matrix
    assert relative(ours, uce) < 1e-6
    assert relative(ours, posed.W @ ridge_map(posed.C, proxy, posed.K, lam=1.0).matrix) > 1e-2


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("edit.cutoff", {"cutoff": 1.0}),
        ("edit.cutoff", {"cutoff": -0.1}),
        ("edit.cutoff", {"cutoff": float("nan")}),
        ("edit.keys-not-finite", {"concepts": torch.full((4, 1), float("nan")).double()}),
        ("edit.keys-not-finite", {"targets": torch.full((4, 1), float("inf")).double()}),
        ("edit.no-null-space", {"concepts": torch.eye(4, dtype=torch.float64)[:, :1]}),
    ],
)
def test_refusals(code: str, change: dict) -> None:
    first = torch.eye(4, dtype=torch.float64)[:, :1]
    good = {
        "concepts": torch.ones(4, 1, dtype=torch.float64),
        "targets": 2 * first,
        "projector": left_null_space(first, 1e-20, 0),
        "cutoff": 0.0,
    }
    left_null_map(**good)
    with pytest.raises(EditError) as caught:
        left_null_map(**{**good, **change})
    assert caught.value.code == code


def test_a_null_space_of_nothing_is_refused() -> None:
    K = Problem.of(4, 1, 9).K
    with pytest.raises(EditError) as caught:
        left_null_space(K, 1e-20, 0)
    assert caught.value.code == "edit.no-null-space"
    with pytest.raises(EditError) as caught:
        left_null_space(K * float("inf"), 1e-20, 0)
    assert caught.value.code == "edit.keys-not-finite"
