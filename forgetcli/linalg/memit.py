"""The mass edit: new values at the concept's keys, with everything else held by its second moment
and not by a projector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.moment import symmetrised


@dataclass(frozen=True)
class SpreadEdit:
    """Δ and what it took.

    Attributes:
        delta: Δ, float64, shape (m, d).
        rcond: reciprocal condition number of the matrix that was factorised.
    """

    delta: Tensor
    rcond: float


def spread_edit(
    keys: Tensor, residual: Tensor, moment: Tensor, lam: float, sites_left: int = 1
) -> SpreadEdit:
    """Δ = R K₁ᵀ (λ C₀ + K₁K₁ᵀ)⁻¹ with R the share of the residual that this site takes, an equal
    one of the sites that are left.

    It minimises ‖ΔK₁ − R‖_F² + λ tr(Δ C₀ Δᵀ), whose gradient is 2(ΔK₁ − R)K₁ᵀ + 2λΔC₀; the second
    term is λ times the mean of
    ‖Δk‖² over the preserved keys k. The last site takes the whole of what the sites before it have
    left undone.

    Args:
        keys: K₁, shape (d, n).
        residual: what the output of the last site still lacks, shape (m, n).
        moment: C₀, the preserved keys' *mean* second moment, float64, shape (d, d), positive
            definite.
        lam: λ > 0.
        sites_left: this site and those after it.
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
    K1, R = keys.double(), residual.double() / sites_left  # (d, n), (m, n)
    M = lam * symmetrised(moment) + K1 @ K1.T
    factor, failed = torch.linalg.cholesky_ex(M)
    if int(failed):
        raise EditError(
            "edit.singular",
            "the edit's linear system is singular to working precision",
            "add preserve prompts, or raise [edit] lam or ridge",
        )
    eigenvalues = torch.linalg.eigvalsh(M)
    return SpreadEdit(
        R @ torch.cholesky_solve(K1, factor).T, float(eigenvalues[0] / eigenvalues[-1])
    )
