"""Orthogonal matrices as edits: the orthogonal Procrustes problem."""

from __future__ import annotations

import torch
from torch import Tensor

# Directions with a smaller share of the largest singular value are rounding.
NEGLIGIBLE = 1e-10


def span(columns: Tensor, energy: float = 1.0) -> Tensor:
    """An orthonormal basis of the space of the columns, float64, shape (m, r), r ≤ n.

    Each column counts by its direction alone, so a short one is no rounding of a long one.

    Args:
        columns: float64, shape (m, n); zero columns have no direction and are left out.
        energy: the fewest principal directions that hold this share of the directions' squared
            length.
    """
    lengths = columns.norm(dim=0)
    directions = columns[:, lengths > 0] / lengths[lengths > 0]
    U, sizes, _ = torch.linalg.svd(directions, full_matrices=False)
    real = sizes > NEGLIGIBLE * sizes.max() if len(sizes) else sizes.bool()
    U, squares = U[:, real], sizes[real].square()
    # What each direction and those behind it hold. Summed from the small end: the sum of all would
    # round the small ones away, and energy = 1 would not keep them.
    left = squares.flip(0).cumsum(0).flip(0)
    return U[:, left > (1 - energy) * squares.sum()]


def nearest_rotation(M: Tensor, *, reflections: bool = False) -> Tensor:
    """The rotation Q that maximises tr(QᵀM), float64, shape (m, m).

    For M = U S Vᵀ it is U D Vᵀ, D the identity but for the sign of its last entry, that of the
    smallest singular value, which makes det Q = 1 (Schönemann 1966; Kabsch 1976).

    Args:
        M: float64, shape (m, m).
        reflections: allow det Q = −1; then D is the identity.
    """
    U, _, Vh = torch.linalg.svd(M)
    if not reflections and torch.linalg.det(U @ Vh) < 0:
        U = torch.cat([U[:, :-1], -U[:, -1:]], 1)
    return U @ Vh
