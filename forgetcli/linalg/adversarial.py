"""Columns for which an edited layer still produces its earlier output."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.factor import cholesky


def adversarial_columns(gram: Tensor, cross: Tensor, concepts: Tensor, lam: float) -> Tensor:
    """Columns c' that minimise Σ‖W_n c' − W₀ c‖² + λ‖c'‖², with the sum over the sites.

    c' = (λI + Σ W_nᵀ W_n)⁻¹ (Σ W_nᵀ W₀) c. The sums are over all sites, so one c' serves all of
    them. Given the context c', the edited model would generate the concept again.

    Args:
        gram: Σ W_nᵀ W_n, float64, shape (d, d). W_n are the weights as edited so far.
        cross: Σ W_nᵀ W₀, float64, shape (d, d). W₀ are the unedited weights.
        concepts: c, shape (d, n).
        lam: λ > 0. Smaller values let c' be larger.
    Raises:
        EditError: λ is not positive, a weight is not finite, or the system cannot be factorised.
    Source: Gong et al., RECE (arXiv 2407.12383), with its regularisation towards zero.
    """
    if not 0 < lam < float("inf"):
        raise EditError("edit.lambda", f"λ must be positive and finite, not {lam}")
    system = gram + lam * torch.eye(len(gram), dtype=torch.float64)
    factor = cholesky(
        system, "raise [adversarial] lam", what="the linear system of the adversarial columns"
    )
    return torch.cholesky_solve(cross @ concepts.double(), factor)  # (d, n)
