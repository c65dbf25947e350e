"""Columns through which an edited layer would still put out what it put out before."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.errors import EditError


def adversarial_columns(gram: Tensor, cross: Tensor, concepts: Tensor, lam: float) -> Tensor:
    """C' that minimises Σ‖W_n c' − W₀ c‖² + λ‖c'‖² over the sites, column by column.

    c' = (λI + Σ W_nᵀ W_n)⁻¹ (Σ W_nᵀ W₀) c. Both sums are over all sites, so that one c' serves all
    of them; it is what a
    prompt would have to become for the edited model to see the concept again.

    Args:
        gram: Σ W_nᵀ W_n, float64, shape (d, d), W_n the weights as edited so far.
        cross: Σ W_nᵀ W₀, float64, shape (d, d), W₀ the unedited ones.
        concepts: c, shape (d, n).
        lam: λ > 0. The smaller, the further c' may go to find the concept.
    Raises:
        EditError: λ is not positive, a weight is not finite, or the system cannot be factorised.
    Source: Gong et al., RECE (arXiv 2407.12383), with its regularisation towards zero.
    """
    if not 0 < lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be positive and finite, not {lam}")
    system = gram + lam * torch.eye(len(gram), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed) or not torch.isfinite(factor).all():
        raise EditError(
            "edit.singular",
            "the system for adversarial columns is singular to working precision",
            "raise [adversarial] lam",
        )
    return torch.cholesky_solve(cross @ concepts.double(), factor)  # (d, n)
