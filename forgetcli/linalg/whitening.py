"""Coordinates for the changes that an edit operator can make. In them the penalty of a change is a
sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky

# Directions of A whose singular value is below this fraction of the largest one are left out.
NEGLIGIBLE_RATIO = 1e-7


@dataclass(frozen=True)
class Coordinates:
    """The maps from coordinates Z to changes: Δ = Z E = (Z T) A, with ‖Z‖_F² = tr(Y M Yᵀ) for
    Δ = Y Ũᵀ.

    Attributes:
        changes: E, float64, shape (k, d).
        residuals: T, float64, shape (k, n). For the residual R = Z T the closed form gives Δ.
    """

    changes: Tensor
    residuals: Tensor


def whitened(A: Tensor, basis: Tensor, metric: Tensor) -> Coordinates:
    """Coordinates of the changes {R A}.

    Their number k is the rank of A: at most min(n, r), for any number of keys.

    The minimiser of f(ΔK₁) + tr(Y M Yᵀ) over all Δ = Y Ũᵀ has rows in the span of M⁻¹B with
    B = ŨᵀK₁, whatever f is, since the gradient G Bᵀ + 2 Y M is zero there. The rows of A span the
    same space, since A = Bᵀ(BBᵀ + M)⁻¹Ũᵀ and (BBᵀ + M)⁻¹B = M⁻¹B(I + BᵀM⁻¹B)⁻¹. So the
    restriction to Δ = R A loses nothing. With M = LLᵀ and the singular value decomposition
    A Ũ L = U S Vᵀ: E = Vᵀ L⁻¹ Ũᵀ and T = S⁻¹ Uᵀ.

    Args:
        A: the edit operator's matrix, float64, shape (n, d). Some rows may be set to zero.
        basis: Ũ, shape (d, r), orthonormal columns.
        metric: M, shape (r, r), symmetric positive definite.
    Raises:
        EditError: A is zero, or M is singular to working precision.
    """
    lower = cholesky(metric, "raise [edit] lam", what="the penalty of a change")  # (r, r)
    left, sizes, right = torch.linalg.svd(A @ basis @ lower, full_matrices=False)
    rank = int((sizes > NEGLIGIBLE_RATIO * sizes[0]).sum())
    if rank == 0:
        raise EditError(
            "edit.nothing-to-change",
            "every token of the concept prompts is also preserved, so there is nothing to edit",
            'give other prompts, or set [edit] positions = "all"',
        )
    unwhitened = torch.linalg.solve_triangular(
        lower, right[:rank], upper=False, left=False
    )  # Vᵀ L⁻¹, (k, r)
    return Coordinates(unwhitened @ basis.T, (left[:, :rank] / sizes[:rank]).T.contiguous())
