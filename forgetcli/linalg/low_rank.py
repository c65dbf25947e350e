"""Low-rank approximations of a matrix within a given error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """Δ ≈ up @ down.

    Attributes:
        up, down: float64, shapes (m, r) and (r, n). Both are scaled by the square roots of the
            singular values. Their entries then have similar sizes, which any stored dtype can
            hold.
        singular: all singular values of Δ, descending, float64, shape (min(m, n),).
    """

    up: Tensor
    down: Tensor
    singular: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]


def rank_for(singular: Tensor, error: float) -> int:
    """The smallest r with ‖Δ − Δ_r‖_F ≤ error · ‖Δ‖_F, where Δ_r is the best rank-r approximation.

    By Eckart and Young, ‖Δ − Δ_r‖_F² is the sum of the squared singular values beyond the r-th.

    Args:
        singular: all singular values, descending.
        error: relative error; 0 keeps every singular value above the rounding of float64.
    """
    energy = singular.square()
    beyond = energy.flip(0).cumsum(0).flip(0)  # beyond[r]: energy beyond the first r
    floor = float(singular[:1].sum()) * len(singular) * torch.finfo(singular.dtype).eps
    allowed = max(error**2 * float(energy.sum()), floor**2)
    return int((beyond > allowed).sum())


def low_rank(delta: Tensor, error: float, max_rank: int | None = None) -> LowRank:
    """The approximation of `delta` with the smallest rank that keeps to `error` or `max_rank`.

    Args:
        delta: float64, shape (m, n).
        error: the allowed relative Frobenius error, in [0, 1).
        max_rank: the largest allowed rank, even if the error is then larger.
    """
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)  # (m, k), (k,), (k, n)
    rank = min(rank_for(S, error), len(S) if max_rank is None else max_rank)
    root = S[:rank].sqrt()
    return LowRank(U[:, :rank] * root, root[:, None] * Vh[:rank], S)
