"""The null-space edit of cross-attention, with columns whose outputs must not change at all."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky, reciprocal_condition
from forgetcli.linalg.projector import Projector
from forgetcli.linalg.ridge import RidgeMap

SINGULAR_HINT = "raise [edit] alpha or lam"


def constrained_map(
    concepts: Tensor,
    targets: Tensor,
    projector: Projector,
    invariants: Tensor,
    alpha: float,
    lam: float = 0.0,
) -> RidgeMap:
    """T such that Δ = W T = ΔP minimises ‖(W + Δ)C − W C*‖² + α‖Δ‖² subject to Δ K₂ = 0.

    For λ > 0 the penalty ‖Δ K₂‖²/λ replaces the constraint.

    The published form, with S_tt = C Cᵀ, S_at = C* Cᵀ and M = (S_tt P + αI)⁻¹, is

        Δ = W (S_at − S_tt) P [I − M K₂ (K₂ᵀ P M K₂ + λI)⁻¹ K₂ᵀ P] M

    With P = ŨŨᵀ the push-through identity gives P M = Ũ H⁻¹ Ũᵀ with H = Ũᵀ S_tt Ũ + αI, which is
    r×r and symmetric positive definite. With J = ŨᵀK₂ the bracket becomes
    H⁻¹ − H⁻¹J(JᵀH⁻¹J + λI)⁻¹JᵀH⁻¹ = (H + JJᵀ/λ)⁻¹, hence the objective above. For λ = 0, Ũ is
    replaced by Ũ N with N an orthonormal basis of the null space of Jᵀ. The result is the same
    matrix, and still exact where K₂ has almost no part in the null space, so that JᵀH⁻¹J would be
    singular.

    Args:
        concepts, targets: c and c*, shape (d, n), paired by column. The paper's sums run over the
            columns.
        projector: P, onto the null space of the preserved columns.
        invariants: K₂, shape (d, k), the columns whose outputs must not change.
        alpha: α > 0, in the units of CCᵀ.
        lam: λ ≥ 0; 0 for a constraint that holds exactly.
    Raises:
        EditError: α or λ is out of range, a column is not finite, or nothing is free to change.
    Source: Li et al., SPEED (arXiv 2503.07392).
    """
    C = concepts.double()
    requested = (targets - concepts).double()
    check_inputs(alpha, lam, C, requested, invariants)
    U = projector.basis  # (d, r)
    if lam == 0:
        U = U @ complement(U.T @ invariants.double())  # (d, r − rank J)
        if U.shape[1] == 0:
            raise EditError(
                "edit.no-null-space",
                "the preserve prompts leave no free direction",
                "ask for fewer invariants, or raise threshold",
            )
    B = U.T @ C  # (r, n)
    H = B @ B.T + alpha * torch.eye(len(B), dtype=torch.float64)
    factor = cholesky(H, SINGULAR_HINT)
    inner = torch.cholesky_solve(B @ requested.T, factor)  # (r, d): H⁻¹ Ũᵀ(S_at − S_tt)ᵀ
    if lam > 0:
        J = U.T @ invariants.double()  # (r, k)
        HJ = torch.cholesky_solve(J, factor)
        penalty = J.T @ HJ + lam * torch.eye(J.shape[1], dtype=torch.float64)  # (k, k)
        inner = inner - HJ @ torch.cholesky_solve(J.T @ inner, cholesky(penalty, SINGULAR_HINT))
    return RidgeMap((U @ inner).T, rcond=reciprocal_condition(H))


def check_inputs(alpha: float, lam: float, *columns: Tensor) -> None:
    """Refuse parameters that are out of range and columns that are not finite.

    Raises:
        EditError: the first fault found.
    """
    if not 0 < alpha < float("inf"):
        raise EditError("edit.alpha", f"α must be positive and finite, not {alpha}")
    if not 0 <= lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be finite and not negative, not {lam}")
    if not all(bool(torch.isfinite(each).all()) for each in columns):
        raise EditError(
            "edit.keys-not-finite",
            "the prompts give NaN or infinite contexts",
            "check the model's weights: one of them is probably damaged",
        )


def complement(columns: Tensor) -> Tensor:
    """An orthonormal basis of the orthogonal complement of columns (r, k), shape (r, r − rank).

    The columns are first scaled to length 1, so that a column with a small part in the null space
    constrains the edit as much as the others do.
    """
    sizes = columns.norm(dim=0)
    columns = columns[:, sizes > 0] / sizes[sizes > 0]  # (r, k')
    if columns.shape[1] == 0:
        return torch.eye(len(columns), dtype=torch.float64)
    left, singular, _ = torch.linalg.svd(columns, full_matrices=True)
    return left[:, int((singular > 1e-12 * singular[0]).sum()) :]
