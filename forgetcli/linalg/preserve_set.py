"""Choosing the columns that an edit preserves: the columns that it would move, copies that a layer
cannot distinguish from them, and means that represent many columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def most_moved(columns: Tensor, delta: Tensor) -> Tensor:
    """The columns c with ‖Δc‖ above the mean (influence-based filtering). The column with the
    largest ‖Δc‖ is always among them.

    Args:
        columns: shape (d, n).
        delta: the change of the weight that an edit without protection makes, shape (m, d).
    Source: Li et al., SPEED (arXiv 2503.07392).
    """
    moved = (delta @ columns).norm(dim=0)  # (n,)
    return columns[:, (moved > moved.mean()) | (moved == moved.max())]


def weak_directions(weight: Tensor, count: int) -> Tensor:
    """Right singular vectors of the `count` smallest singular values of W, shape (d, count).

    As published, only the min(m, d) singular values are considered. The exact null space of a wide
    W (m < d) is not included.
    """
    return torch.linalg.svd(weight, full_matrices=False).Vh[-count:].T


def augmented(
    columns: Tensor, weight: Tensor, copies: int, directions: int, generator: torch.Generator
) -> Tensor:
    """Copies c' = c + P_min ε of the columns, for which the output of W is almost the same.

    ε is standard normal. P_min projects onto `weak_directions`, so ‖W(c' − c)‖ ≤ σ‖c' − c‖ with σ
    the largest singular value of these directions.

    Returns:
        shape (d, n·copies).

    Source: Li et al., SPEED (arXiv 2503.07392).
    """
    V = weak_directions(weight, directions)  # (d, r)
    noise = torch.randn(
        V.shape[1], columns.shape[1] * copies, generator=generator, dtype=torch.float64
    )
    return columns.repeat(1, copies) + V @ noise  # V ε' is distributed as P_min ε


def centroids(columns: Tensor, count: int, rounds: int = 100) -> Tensor:
    """Means that represent the columns (k-means), shape (d, count).

    Lloyd's iteration starts from evenly spaced columns, because contexts of padding change slowly
    from position to position. The same input always gives the same means. At most `count` columns
    are returned unchanged.
    """
    n = columns.shape[1]
    if n <= count:
        return columns
    centres = columns[:, [(2 * i + 1) * n // (2 * count) for i in range(count)]]
    for _ in range(rounds):
        nearest = torch.cdist(columns.T, centres.T).argmin(1)  # (n,)
        moved = torch.stack(
            [
                columns[:, nearest == i].mean(1) if (nearest == i).any() else centres[:, i]
                for i in range(count)
            ],
            1,
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
