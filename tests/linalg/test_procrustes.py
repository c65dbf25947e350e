"""The nearest rotation against 50 digits and against its own optimality."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from forgetcli.linalg import nearest_rotation, span


def matrix(size: int, seed: int, determinant: int) -> Tensor:
    """A random matrix of which the sign of the determinant is known."""
    M = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if torch.linalg.det(M).sign() != determinant:
        M[0] *= -1
    return M


@pytest.mark.parametrize("seed", range(3))
def test_the_polar_factor_is_that_of_50_digits(seed: int) -> None:
    """Q = M (MᵀM)^(−1/2), by an eigendecomposition in 50 digits."""
    M = matrix(5, seed, 1)
    with mpmath.workdps(50):
        exact = mpmath.matrix(M.tolist())
        values, vectors = mpmath.eigsy(exact.T * exact)
        root = vectors * mpmath.diag([v**-0.5 for v in values]) * vectors.T
        polar = exact * root
    wanted = torch.tensor([[float(x) for x in row] for row in polar.tolist()], dtype=M.dtype)
    found = nearest_rotation(M)
    assert (found - wanted).norm() < 1e-12
    assert (nearest_rotation(M + 0.1 * matrix(5, 9, 1)) - wanted).norm() > 1e-3


@pytest.mark.parametrize("determinant", [1, -1])
def test_no_rotation_nearby_is_better(determinant: int) -> None:
    M = matrix(6, 4, determinant)
    Q = nearest_rotation(M)
    best = float((Q * M).sum())
    assert (Q.T @ Q - torch.eye(6)).norm() < 1e-12
    assert torch.linalg.det(Q) == pytest.approx(1)
    for seed in range(50):
        skew = matrix(6, seed, 1)
        near = Q @ torch.linalg.matrix_exp(0.05 * (skew - skew.T))
        assert float((near * M).sum()) < best


def test_reflections_are_allowed_only_where_they_were_asked_for() -> None:
    M = matrix(4, 2, -1)
    assert torch.linalg.det(nearest_rotation(M, reflections=True)) == pytest.approx(-1)
    free = float((nearest_rotation(M, reflections=True) * M).sum())
    assert free == pytest.approx(float(torch.linalg.matrix_norm(M, "nuc")))
    assert float((nearest_rotation(M) * M).sum()) < free


def test_a_basis_has_no_direction_twice_and_none_of_zeros() -> None:
    a, b = torch.eye(4, dtype=torch.float64)[:2]
    basis = span(torch.stack([1e9 * a, a, 1e-9 * (a + b), 0 * b], 1))
    assert basis.shape == (4, 2)
    assert (basis @ basis.T - torch.diag(torch.tensor([1.0, 1, 0, 0]).double())).norm() < 1e-12


def test_a_basis_has_the_directions_above_rounding_and_below_the_energy() -> None:
    """Two columns at a small angle have singular values in the ratio angle / 2."""
    for angle, rank in ((2.4e-10, 2), (1.6e-10, 1)):
        columns = torch.tensor([[1, 1], [0, angle]], dtype=torch.float64)
        assert span(columns).shape == span(torch.cat([columns] * 9, 1)).shape == (2, rank)
    # Nine equal columns and one other: squared singular values 9 and 1.
    columns = torch.eye(3, dtype=torch.float64)[:, [0] * 9 + [1]]
    for energy, rank in ((1.0, 2), (0.91, 2), (0.89, 1), (1e-9, 1)):
        basis = span(columns, energy)
        assert basis.shape == (3, rank) and basis[0, 0].abs() == pytest.approx(1)
    assert torch.equal(span(columns), span(columns, 1.0))
    assert span(torch.zeros(3, 2, dtype=torch.float64)).shape == (3, 0)
    assert span(torch.zeros(3, 0, dtype=torch.float64)).shape == (3, 0)
