"""A matrix as a product of two thin matrices, within a given error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """Δ ≈ up @ down.

    Attributes:
        up, down: float64, shapes (m, r) and (r, n). Each has the square roots of the singular
            values, so that the entries of both have similar sizes, whatever dtype they are stored
            in.
        singular: all singular values of Δ, descending, float64, shape (min(m, n),).
    """

    up: Tensor
    down: Tensor
    singular: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]


def rank_for(singular: Tensor, error: float) -> int:
    """The smallest r with ‖Δ − Δ_r‖_F ≤ error · ‖Δ‖_F, Δ_r being the best approximation of rank r.

    By Eckart and Young, ‖Δ − Δ_r‖_F² is the sum of the squared singular values beyond the r-th.

    Args:
        singular: all singular values, descending.
        error: relative; 0 keeps every singular value above the rounding of float64.
    """
    energy = singular.square()
    beyond = energy.flip(0).cumsum(0).flip(0)  # [r]: energy beyond the first r
    floor = float(singular[:1].sum()) * len(singular) * torch.finfo(singular.dtype).eps
    allowed = max(error**2 * float(energy.sum()), floor**2)
    return int((beyond > allowed).sum())


def low_rank(delta: Tensor, error: float, max_rank: int | None = None) -> LowRank:
    """The best approximation of `delta` within a relative error, or of at most `max_rank`.

    Args:
        delta: float64, shape (m, n).
        error: relative Frobenius error that is allowed, in [0, 1).
    """
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)  # (m, k), (k,), (k, n)
    rank = min(rank_for(S, error), len(S) if max_rank is None else max_rank)
    root = S[:rank].sqrt()
    return LowRank(U[:, :rank] * root, root[:, None] * Vh[:rank], S)
