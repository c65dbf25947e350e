"""Second moments of keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError

ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class Moment:
    """The second moment K₀K₀ᵀ of keys, and their number.

    Moments are additive: the moment of two prompt sets is the sum of their moments.

    Attributes:
        matrix: float64, shape (d, d), positive semi-definite, and symmetric up to rounding: on some
            processors a product of a matrix with its transpose is not symmetric to the last bit.
            `symmetrised` makes it so.
        tokens: the number of key columns, repetitions included; the sum of the weights if the
            columns are weighted.
    """

    matrix: Tensor
    tokens: float

    @staticmethod
    def of(keys: Tensor, counts: Tensor) -> Moment:
        """The moment of distinct keys, each of which occurs several times.

        m copies of a key k add m·kkᵀ, so repeated tokens (most positions of short prompts) are
        merged exactly.

        Args:
            keys: shape (d, n), one column per distinct token; any floating dtype.
            counts: shape (n,), the number of occurrences of each key.
        """
        matrix = gram(keys.double() * counts.double().sqrt())
        return Moment(matrix, int(counts.sum()))

    def __add__(self, other: Moment) -> Moment:
        return Moment(self.matrix + other.matrix, self.tokens + other.tokens)

    def times(self, count: float) -> Moment:
        """The moment of the same prompts, each repeated `count` times or with that weight."""
        return Moment(self.matrix * count, self.tokens * count)


def gram(columns: Tensor) -> Tensor:
    """C Cᵀ of columns C, shape (d, n)."""
    matrix = columns.new_empty(len(columns), len(columns))
    # Only the upper triangle is computed, then mirrored. That halves the products.
    for start in range(0, len(columns), ROWS_PER_BLOCK):
        stop = start + ROWS_PER_BLOCK
        rows = columns[start:stop] @ columns[start:].T  # (block, d − start)
        matrix[start:, start:stop] = rows.T
        matrix[start:stop, stop:] = rows[:, ROWS_PER_BLOCK:]
    return matrix


def symmetrised(matrix: Tensor) -> Tensor:
    """(M + Mᵀ)/2, after a check that M is symmetric up to rounding.

    Raises:
        EditError: M is not square, not float64, not finite, or further from symmetric than
            rounding explains.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EditError(
            "edit.moment-shape", f"a second moment must be square, not {tuple(matrix.shape)}"
        )
    if matrix.dtype != torch.float64:
        raise EditError("edit.moment-dtype", f"a second moment must be float64, not {matrix.dtype}")
    if not torch.isfinite(matrix).all():
        raise EditError(
            "edit.moment-not-finite",
            "the preserve prompts' second moment has NaN or infinite entries",
            "check the model's weights: one of them is probably damaged",
        )
    # A copy, because every further pass over a transposed view of a large matrix is slow.
    mirrored = matrix.T.contiguous()
    skew = (matrix - mirrored).abs_().max()
    if skew > 1e-9 * matrix.abs().max().clamp_min(1e-300):
        raise EditError(
            "edit.moment-not-symmetric",
            f"a second moment must be symmetric (off by {float(skew):.1e})",
        )
    return mirrored.add_(matrix).div_(2)
