"""Encoded prompts, the input that conditions a denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Context:
    """Encoded prompts, one per row.

    Attributes:
        hidden: the hidden states of the tokens, shape (n, length, d).
        pooled: the pooled embeddings of the prompts, shape (n, d'); None if the denoiser uses
            none.
    """

    hidden: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> Context:
        pooled = None if self.pooled is None else self.pooled[rows]
        return Context(self.hidden[rows], pooled)

    @property
    def pooled_embeddings(self) -> Tensor:
        """`pooled`, for denoisers that always need it."""
        assert self.pooled is not None
        return self.pooled

    def to(self, dtype: torch.dtype) -> Context:
        """In another dtype, as the denoiser reads it."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return Context(self.hidden.to(dtype), pooled)

    def repeated(self, n: int) -> Context:
        """The first row, n times."""
        return self[[0] * n]

    @staticmethod
    def cat(parts: Sequence[Context]) -> Context:
        """The rows of all parts. Either all have pooled embeddings or none."""
        # Families are listed without torch.
        import torch

        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Context(
            hidden=torch.cat([part.hidden for part in parts]),
            pooled=torch.cat(pooled) if pooled else None,
        )
