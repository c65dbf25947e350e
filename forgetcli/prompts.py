"""Prompts as tokens: batches, and which positions of which prompts are the same token in the same context."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from forgetcli.errors import EditError


@dataclass(frozen=True)
class TokenBatch:
    """Prompts, padded to the tokenizer's length.

    In a causal encoder the key at a position is a function of the tokens up to it alone. Positions with the same prefix
    are therefore one and the same key, and are merged here, by prefix: exactly, not by comparing floats.

    Attributes:
        prompts: n prompts.
        ids: int64, shape (n, length).
    """

    prompts: tuple[str, ...]
    ids: Tensor

    @cached_property
    def owner(self) -> Tensor:
        """For each position, the number of its distinct prefix: int64, shape (n, length)."""
        return self._merged[0]

    @cached_property
    def counts(self) -> Tensor:
        """How often each distinct prefix occurs: int64, shape (distinct,)."""
        return torch.bincount(self.owner.flatten(), minlength=len(self.first))

    @cached_property
    def first(self) -> Tensor:
        """Flat position (row·length + column) of each distinct prefix's first occurrence: int64, shape (distinct,)."""
        return self._merged[1]

    @cached_property
    def _merged(self) -> tuple[Tensor, Tensor]:
        seen: dict[tuple[int, int], int] = {}                         # (prefix so far, next token) → prefix
        owner, first = [], []
        length = self.ids.shape[1]
        for row, tokens in enumerate(self.ids.tolist()):
            prefix = -1
            for column, token in enumerate(tokens):
                step = (prefix, token)
                if step not in seen:
                    seen[step] = len(first)
                    first.append(row * length + column)
                prefix = seen[step]
                owner.append(prefix)
        return torch.tensor(owner).reshape(self.ids.shape), torch.tensor(first)

    def merge(self, columns: Tensor) -> Tensor:
        """Values at all positions (n, length, d) → one column a distinct token (d, distinct)."""
        return columns.flatten(0, 1)[self.first.to(columns.device)].T

    def mean(self, columns: Tensor) -> Tensor:
        """As `merge`, but the mean over a token's occurrences: for values, which may differ where keys do not."""
        flat = columns.flatten(0, 1)                                  # (n·length, d)
        total = flat.new_zeros(len(self.first), flat.shape[1]).index_add_(0, self.owner.flatten(), flat)
        return (total / self.counts[:, None]).T

    def split(self, size: int) -> Iterator[TokenBatch]:
        """Batches of at most `size` prompts."""
        for start in range(0, len(self.prompts), size):
            yield TokenBatch(self.prompts[start:start + size], self.ids[start:start + size])


def tokenise(tokenizer, prompts: Sequence[str], *, strict: bool = False) -> TokenBatch:
    """Prompts as token ids, padded to the model's length.

    Args:
        strict: refuse prompts that do not fit, since what is cut off would silently not be edited.
    Raises:
        EditError: `strict` and a prompt is longer than the tokenizer's limit.
    """
    length = tokenizer.model_max_length
    if strict:
        for prompt in prompts:
            needed = len(tokenizer.tokenize(prompt)) + 2               # start and end
            if needed > length:
                raise EditError("edit.prompt-too-long", f"'{prompt}' is {needed} tokens long; the model reads {length}",
                                "shorten the concept or the template: what is cut off would not be edited")
    ids = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return TokenBatch(tuple(prompts), ids)
