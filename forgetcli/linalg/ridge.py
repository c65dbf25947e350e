"""The ridge form of the cross-attention edits: a weighted least-squares map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky, reciprocal_condition


@dataclass(frozen=True)
class RidgeMap:
    """The map T that gives the change Δ = W T of a weight W.

    Attributes:
        matrix: T, float64, shape (d, d).
        rcond: reciprocal condition number of the system that was factorised.
    """

    matrix: Tensor
    rcond: float


def ridge_map(
    concepts: Tensor,
    targets: Tensor,
    preserve: Tensor,
    lam: float,
    erase: float = 1.0,
    keep: float = 1.0,
) -> RidgeMap:
    """T such that W' = W(I + T) minimises
    η_e Σ‖W'c − W c*‖² + η_p Σ‖W'c_p − W c_p‖² + λ‖W' − W‖².

    The minimiser is W' = (λW + η_e Σ W c*cᵀ + η_p Σ W c_p c_pᵀ) M⁻¹ with
    M = λI + η_e Σ ccᵀ + η_p Σ c_p c_pᵀ. Subtracting W gives T = η_e Σ (c* − c)cᵀ M⁻¹. Computed in
    this form, only the change is rounded, not the weight.

    Args:
        concepts, targets: c and c*, shape (d, n), paired by column. A column that occurs m times
            has m times the weight.
        preserve: c_p, shape (d, p); p may be 0.
        lam, erase, keep: λ > 0, η_e, η_p.
    Raises:
        EditError: λ is not positive, a column is not finite, or the system cannot be factorised.
    Source: Gandikota et al., UCE (arXiv 2308.14761), eq. 7.
    """
    K = preserve.double()
    return ridge_map_of_moment(concepts, targets, keep * K @ K.T, lam, erase)


def ridge_map_of_moment(
    concepts: Tensor, targets: Tensor, protected: Tensor, lam: float, erase: float = 1.0
) -> RidgeMap:
    """As `ridge_map`, with the moment of the preserved columns given as a matrix.

    Args:
        protected: η_p Σ c_p c_pᵀ, float64, shape (d, d).
    Raises:
        EditError: as `ridge_map`.
    """
    if not 0 < lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be positive and finite, not {lam}")
    C = concepts.double()
    C_star = targets.double()
    if not all(bool(torch.isfinite(columns).all()) for columns in (C, C_star, protected)):
        raise EditError(
            "edit.keys-not-finite",
            "the prompts give NaN or infinite contexts",
            "check the model's weights: one of them is probably damaged",
        )
    M = lam * torch.eye(len(C), dtype=torch.float64) + erase * C @ C.T + protected
    factor = cholesky(M, "raise [edit] lam")
    requested = erase * (C_star - C) @ C.T  # (d, d)
    return RidgeMap(torch.cholesky_solve(requested.T, factor).T, rcond=reciprocal_condition(M))
