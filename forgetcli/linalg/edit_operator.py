"""The closed-form edit, as a linear operator on the residual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky, reciprocal_condition
from forgetcli.linalg.moment import gram, symmetrised
from forgetcli.linalg.projector import Projector

SINGULAR_HINT = "raise [edit] lam"


@dataclass(frozen=True)
class EditOperator:
    """A in Δ = R A, which maps a residual R at the concept keys to a change Δ of the weight.

    Attributes:
        keys: B = ŨᵀK₁, float64, shape (r, n).
        basis: Ũ, shape (d, r), orthonormal columns.
        metric: M, float64, shape (r, r): the penalty of a change Δ = Y Ũᵀ is tr(Y M Yᵀ).
        system: the matrix that was factorised, BBᵀ + M, or BᵀB + λI if it is smaller.
        factor: its lower Cholesky factor.
        rcond: its reciprocal condition number.
    """

    keys: Tensor
    basis: Tensor
    metric: Tensor
    system: Tensor
    factor: Tensor
    rcond: float

    @cached_property
    def matrix(self) -> Tensor:
        """A, float64, shape (n, d); A = A P, so Δ K₀ ≈ 0 whatever R is."""
        if len(self.system) == len(self.keys):
            coefficients = torch.cholesky_solve(self.keys, self.factor).T  # (n, r)
        else:
            coefficients = torch.cholesky_solve(self.keys.T, self.factor)  # (n, r)
        return coefficients @ self.basis.T

    def delta(self, residual: Tensor) -> Tensor:
        """Δ = R A, shape (m, d), for R = V₁ − W K₁ of shape (m, n)."""
        return residual.double() @ self.matrix


def edit_operator(
    K1: Tensor, projector: Projector, lam: float, protected: Tensor | None = None
) -> EditOperator:
    """A = (K₁ᵀ P K₁ + λI)⁻¹ K₁ᵀ P, so that Δ = R A minimises ‖ΔP K₁ − R‖² + λ‖ΔP‖² over all Δ = ΔP.

    By the push-through identity this equals the paper's K₁ᵀP (K₁K₁ᵀP + λI)⁻¹. With B = ŨᵀK₁, A is
    both (BᵀB + λI)⁻¹BᵀŨᵀ (n×n) and Bᵀ(BBᵀ + λI)⁻¹Ũᵀ (r×r). The smaller system is factorised by
    Cholesky; no inverse is formed.

    With keys K_p of earlier edits, ‖ΔP K_p‖² is added to the objective. The paper's form becomes
    K₁ᵀP (K₁K₁ᵀP + K_pK_pᵀP + λI)⁻¹ = Bᵀ(BBᵀ + ŨᵀK_pK_pᵀŨ + λI)⁻¹ Ũᵀ, where the system is r×r and
    symmetric positive definite. (An n×n form would first need a factor of the r×r matrix
    ŨᵀK_pK_pᵀŨ + λI.)

    Args:
        K1: keys of the concept prompts, shape (d, n). Repeated tokens are merged: m copies of k
            become one column √m·k, with the value √m·mean(v).
        projector: P.
        lam: λ > 0, in the units of K₁K₁ᵀ.
        protected: K_pK_pᵀ, float64, shape (d, d): second moment of inputs whose outputs should
            change little, for example an earlier edit's keys or the weighted keys of the
            vocabulary. None: no such inputs.
    Raises:
        EditError: λ is not positive, K₁ is not finite, the moment is damaged, or the system cannot
            be factorised.
    Source: Fang et al., AlphaEdit (arXiv 2410.02355), eq. 11–14.
    """
    if not 0 < lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be positive and finite, not {lam}")
    if not torch.isfinite(K1).all():
        raise EditError(
            "edit.keys-not-finite",
            "the concept prompts give NaN or infinite keys",
            "check the model's weights: one of them is probably damaged",
        )
    B = projector.basis.T @ K1.double()  # (r, n)
    rank, count = B.shape
    metric = lam * torch.eye(rank, dtype=torch.float64, device=B.device)
    if protected is not None:
        metric = metric + projector.basis.T @ symmetrised(protected) @ projector.basis  # (r, r)
    if count >= rank or protected is not None:
        system = gram(B) + metric  # (r, r)
    else:
        system = B.T @ B + lam * torch.eye(count, dtype=torch.float64, device=B.device)  # (n, n)
    factor = cholesky(system, SINGULAR_HINT)
    return EditOperator(
        B, projector.basis, metric, system, factor, rcond=reciprocal_condition(system)
    )
