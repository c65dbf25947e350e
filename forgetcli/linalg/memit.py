"""The mass edit: new values at the concept's keys. A second moment, not a projector, protects all
other keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky, reciprocal_condition
from forgetcli.linalg.moment import symmetrised


@dataclass(frozen=True)
class SpreadEdit:
    """The change of one site.

    Attributes:
        delta: Δ, float64, shape (m, d).
        rcond: reciprocal condition number of the matrix that was factorised.
    """

    delta: Tensor
    rcond: float


def spread_edit(
    keys: Tensor, residual: Tensor, moment: Tensor, lam: float, sites_left: int = 1
) -> SpreadEdit:
    """Δ = R K₁ᵀ (λ C₀ + K₁K₁ᵀ)⁻¹, where R is this site's share of the residual.

    All remaining sites get equal shares; the last site gets the whole remaining residual.
    Δ minimises ‖ΔK₁ − R‖_F² + λ tr(Δ C₀ Δᵀ), whose gradient is 2(ΔK₁ − R)K₁ᵀ + 2λΔC₀. The second
    term is λ times the mean of ‖Δk‖² over the preserved keys k.

    Args:
        keys: K₁, shape (d, n).
        residual: requested minus current output of the last site, shape (m, n).
        moment: C₀, the preserved keys' *mean* second moment, float64, shape (d, d), positive
            definite.
        lam: λ > 0.
        sites_left: the number of remaining sites, this one included.
    Raises:
        EditError: λ is not positive, a key is not finite, the moment is damaged, or the system
            cannot be factorised.
    Source: Meng et al., MEMIT (arXiv 2210.07229); Xiong et al., EMCID (arXiv 2403.13807).
    """
    if not 0 < lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be positive and finite, not {lam}")
    if not (torch.isfinite(keys).all() and torch.isfinite(residual).all()):
        raise EditError(
            "edit.keys-not-finite",
            "the concept prompts give NaN or infinite keys or values",
            "check the model's weights, or lower [refine] lr",
        )
    K1 = keys.double()  # (d, n)
    R = residual.double() / sites_left  # (m, n)
    M = lam * symmetrised(moment) + K1 @ K1.T
    factor = cholesky(M, "add preserve prompts, or raise [edit] lam or ridge")
    return SpreadEdit(R @ torch.cholesky_solve(K1, factor).T, rcond=reciprocal_condition(M))
