"""Coordinates for the changes that an edit operator can make. In them the penalty of a change is a
sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.edit_operator import EditOperator
from forgetcli.linalg.factor import cholesky
from forgetcli.linalg.moment import gram

# Directions of A whose singular value is below this fraction of the largest one are left out.
NEGLIGIBLE_RATIO = 1e-7


# The keys span the null space if no eigenvalue of their second moment is below this fraction of the
# sum of all. Rounding errors of the eigenvalues are five orders of magnitude smaller.
SPANNING_RATIO = 1e-10


@dataclass(frozen=True)
class Coordinates:
    """The maps from coordinates Z, shape (m, k), to changes: Δ = Z E = (Z T) A, with
    ‖Z‖_F² = tr(Y M Yᵀ) for Δ = Y Ũᵀ.

    Attributes:
        changes: E, float64, shape (k, d).
        residual: Z ↦ Z T, shape (m, n): the smallest residual for which the closed form gives
            Δ = Z E.
    """

    changes: Tensor
    residual: Callable[[Tensor], Tensor]


def coordinates(operator: EditOperator, weights: Tensor, unit: float = 1.0) -> Coordinates:
    """Coordinates of the changes {R diag(w) A}.

    If the keys span the null space, so do the rows of A, and the changes are all Δ = Y Ũᵀ. Then no
    singular values are needed: with M = LLᵀ, N = B diag(w)² Bᵀ and S = BBᵀ + M,
    E = L⁻¹ Ũᵀ and T = L⁻¹ S N⁻¹ B diag(w), since diag(w) A = diag(w) Bᵀ S⁻¹ Ũᵀ. (At 2,000 keys and
    630 directions this takes a fifth of the time of the decomposition in `whitened`.)

    Args:
        weights: w, float64, shape (n,); zero for keys whose outputs must not change.
        unit: the penalty is counted in it: M is divided by it.
    Raises:
        EditError: as `whitened`.
    """
    metric = operator.metric / unit
    if int(weights.count_nonzero()) >= len(operator.keys):
        moment = gram(operator.keys * weights)  # N, (r, r)
        if spans(moment):
            lower = metric_factor(metric)
            factor = torch.linalg.cholesky(moment)

            def residual(Z: Tensor) -> Tensor:
                # From the left, since Z mostly has fewer rows than the matrices.
                Y = torch.linalg.solve_triangular(lower, Z, upper=False, left=False)  # Z L⁻¹
                solved = torch.cholesky_solve((Y @ operator.system).T, factor).T
                return solved @ operator.keys * weights

            changes = torch.linalg.solve_triangular(lower, operator.basis.T, upper=False)
            return Coordinates(changes, residual)
    return whitened(weights[:, None] * operator.matrix, operator.basis, metric)


def spans(moment: Tensor) -> bool:
    """Whether no eigenvalue of a second moment is below `SPANNING_RATIO` of their sum.

    A Cholesky factorisation decides in a sixth of the time of the eigenvalues.
    """
    shifted = moment.clone()
    shifted.diagonal().sub_(SPANNING_RATIO * moment.trace())
    return not int(torch.linalg.cholesky_ex(shifted).info)


def metric_factor(metric: Tensor) -> Tensor:
    """L of M = LLᵀ, shape (r, r).

    Raises:
        EditError: M is singular to working precision.
    """
    return cholesky(metric, "raise [edit] lam", what="the penalty of a change")


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
    lower = metric_factor(metric)
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
    # A row of zeros has no residual, but rounding errors.
    back = (left[:, :rank] / sizes[:rank]).T * A.any(1)  # T, (k, n)
    return Coordinates(unwhitened @ basis.T, lambda Z: Z @ back)
