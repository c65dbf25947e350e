"""The two projections of DP: the proxy of a concept, and the edit in the left null space."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.projector import Projector, null_space
from forgetcli.linalg.ridge import RidgeMap
from forgetcli.linalg.spectrum import Spectrum


def left_null_space(columns: Tensor, threshold: float, min_rank: int) -> Projector:
    """U₂U₂ᵀ of the preserved columns K = U₁ΣV₁ᵀ: all directions but the principal ones.

    It is found from K itself and not from KKᵀ, whose rounding hides singular values below 1e-8 of
    the largest. So for a tiny threshold the null space is exact, and Δ = Δ U₂U₂ᵀ moves no output
    W k. With a larger one, k directions are left out of U₂, the paper's truncation, and the outputs
    move by ‖Δ k‖ ≤ ‖Δ‖₂ σ_{k+1}(K), k+1 the first direction that is free.

    Args:
        columns: K, float64, shape (d, n).
        threshold: directions with σ² below threshold × mean σ² are free.
        min_rank: at least so many directions are free, those with the smallest σ first.
    Raises:
        EditError: a column is not finite, or no direction is free.
    Source: DP (arXiv 2604.10032), theorems 4.1 and 4.2.
    """
    _refuse_not_finite(columns)
    d, n = columns.shape
    if not bool(columns.any()):
        return Projector.identity(d)
    # d columns with the same U and Σ: zeros are added, or Kᵀ = QR leaves Rᵀ for K.
    if n < d:
        square = torch.cat([columns, columns.new_zeros(d, d - n)], 1)
    else:
        square = torch.linalg.qr(columns.T, mode="r").R.T
    U, singular, _ = torch.linalg.svd(square)  # (d, d), (d,), descending
    return null_space(Spectrum(singular.square().flip(0), U.flip(1)), threshold, min_rank)


def safe_proxies(columns: Tensor, basis: Tensor) -> Tensor:
    """c* = S (SᵀS)⁺ Sᵀ c, the part of each column that lies in the safe subspace, shape (d, n).

    Args:
        columns: c, shape (d, n).
        basis: an orthonormal basis of the span of S, shape (d, k); see `linalg.span`.
    Source: DP (arXiv 2604.10032), first projection.
    """
    return basis @ (basis.T @ columns)


def left_null_map(
    concepts: Tensor, targets: Tensor, projector: Projector, cutoff: float
) -> RidgeMap:
    """T such that Δ = W T = Z U₂ᵀ with Z the smallest of all minimisers of ‖Z X − W(C* − C)‖_F².

    X = U₂ᵀC. The smallest minimiser is Z = W(C* − C) X⁺, so T = (C* − C) X⁺ U₂ᵀ does not depend on
    W. For one column, X⁺ = xᵀ/‖x‖² and T is the paper's, which has no other case. Directions of X
    below the cutoff are left out of X⁺: columns that differ by little would ask for a large Z.

    Args:
        concepts, targets: C and C*, shape (d, n), paired by column.
        projector: U₂.
        cutoff: singular values of X below cutoff × the largest count as zero.
    Raises:
        EditError: the cutoff is not in [0, 1), a column is not finite, or no concept has a part in
            the null space.
    Source: DP (arXiv 2604.10032), second projection; for several columns, least squares.
    """
    if not 0 <= cutoff < 1:
        raise EditError("edit.cutoff", f"the cutoff must be at least 0 and below 1, not {cutoff}")
    C = concepts.double()
    requested = targets.double() - C  # (d, n)
    _refuse_not_finite(C, requested)
    X = projector.basis.T @ C  # (r, n)
    U, singular, Vh = torch.linalg.svd(X, full_matrices=False)
    largest = float(singular.max()) if len(singular) else 0.0
    if largest <= 1e-12 * float(C.norm()):
        raise EditError(
            "edit.no-null-space",
            "every concept prompt lies in what the preserve prompts span",
            "raise [edit] threshold or min_rank, or preserve fewer prompts",
        )
    kept = singular > max(cutoff, 1e-12) * largest
    U, singular, Vh = U[:, kept], singular[kept], Vh[kept]
    Z = (requested @ Vh.T / singular) @ U.T  # (d, r)
    return RidgeMap(Z @ projector.basis.T, rcond=float(singular.min() / largest))


def _refuse_not_finite(*columns: Tensor) -> None:
    if not all(bool(torch.isfinite(each).all()) for each in columns):
        raise EditError(
            "edit.keys-not-finite",
            "the prompts give NaN or infinite contexts",
            "check the model's weights: one of them is probably damaged",
        )
