"""Coordinates of all changes that an edit operator can make, in which what a change costs is a
plain sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError

NEGLIGIBLE = 1e-7  # of the largest singular value: directions that A hardly has


@dataclass(frozen=True)
class Coordinates:
    """Z in Δ = Z E = (Z T) A, with ‖Z‖_F² = tr(Y M Yᵀ) for Δ = Y Ũᵀ.

    Attributes:
        changes: E, float64, shape (k, d).
        residuals: T, float64, shape (k, n): R = Z T is a residual for which the closed form gives
            Δ.
    """

    changes: Tensor
    residuals: Tensor


def whitened(A: Tensor, basis: Tensor, metric: Tensor) -> Coordinates:
    """Coordinates of {R A}: k = the rank of A, at most min(n, r), however many keys there are.

    The minimiser of f(ΔK₁) + tr(Y M Yᵀ) over all Δ = Y Ũᵀ has rows in the span of M⁻¹B, B = ŨᵀK₁,
    whatever f is: there the gradient
    G Bᵀ + 2 Y M is zero. Those of A span the same, since A = Bᵀ(BBᵀ + M)⁻¹Ũᵀ and (BBᵀ + M)⁻¹B =
    M⁻¹B(I + BᵀM⁻¹B)⁻¹. So nothing is
    lost by asking for Δ = R A. With M = LLᵀ and the singular value decomposition A Ũ L = U S Vᵀ: E
    = Vᵀ L⁻¹ Ũᵀ, T = S⁻¹ Uᵀ.

    Args:
        A: the edit operator's matrix, or some of its rows and zeros for the others, float64, shape
            (n, d).
        basis: Ũ, shape (d, r), orthonormal columns.
        metric: M, shape (r, r), symmetric positive definite.
    Raises:
        EditError: A is zero, or M is singular to working precision.
    """
    lower, failed = torch.linalg.cholesky_ex(metric)  # (r, r)
    if int(failed):
        raise EditError(
            "edit.singular",
            "what a change costs is singular to working precision",
            "raise [edit] lam",
        )
    left, sizes, right = torch.linalg.svd(A @ basis @ lower, full_matrices=False)
    rank = int((sizes > NEGLIGIBLE * sizes[0]).sum())
    if rank == 0:
        raise EditError(
            "edit.nothing-to-change",
            "no token of the concept prompts lies outside what must stay",
            'give other prompts, or set [edit] positions = "all"',
        )
    unwhitened = torch.linalg.solve_triangular(
        lower, right[:rank], upper=False, left=False
    )  # Vᵀ L⁻¹, (k, r)
    return Coordinates(unwhitened @ basis.T, (left[:, :rank] / sizes[:rank]).T.contiguous())
