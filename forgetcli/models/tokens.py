"""Prompts as tokens: batches, and which positions of which prompts are the same token in the same
context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from forgetcli.errors import EditError


@dataclass(frozen=True)
class Segment:
    """The columns of a batch's token ids that one text encoder reads.

    Attributes:
        encoder: its component; "" where there is one only.
        causal: whether a position sees only what is before it.
    """

    encoder: str
    start: int
    stop: int
    causal: bool = True


@dataclass(frozen=True)
class TokenBatch:
    """Prompts, padded to the tokenizer's length; for a model with several text encoders, the ids
    for each of them side by side.

    In a causal encoder the key at a position is a function of the tokens up to it alone. Positions
    with the same prefix
    are therefore one and the same key, and are merged here, by prefix: exactly, not by comparing
    floats. In one that is not
    causal, positions are the same only where all tokens are.

    Attributes:
        prompts: n prompts.
        ids: int64, shape (n, length).
        segments: which columns are whose; none: all are a causal encoder's.
    """

    prompts: tuple[str, ...]
    ids: Tensor
    segments: tuple[Segment, ...] = ()

    @property
    def parts(self) -> tuple[Segment, ...]:
        """`segments`, of which there is always one."""
        return self.segments or (Segment("", 0, self.ids.shape[1]),)

    def of(self, encoder: str) -> TokenBatch:
        """What one text encoder reads of it."""
        if len(self.parts) == 1:
            return self
        (own,) = [part for part in self.parts if part.encoder == encoder]
        return TokenBatch(
            self.prompts,
            self.ids[:, own.start : own.stop],
            (Segment(encoder, 0, own.stop - own.start, own.causal),),
        )

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
        """Flat position (row·length + column) of each distinct prefix's first occurrence: int64,
        shape (distinct,).
        """
        return self._merged[1]

    @cached_property
    def _merged(self) -> tuple[Tensor, Tensor]:
        seen: dict[tuple[int, int], int] = {}  # (prefix so far, next token) → prefix
        roots: dict[tuple, int] = {}  # (segment, what all its positions see) → empty prefix
        owner, first = [], []
        length = self.ids.shape[1]
        for row, tokens in enumerate(self.ids.tolist()):
            for part in self.parts:
                whole = () if part.causal else tuple(tokens[part.start : part.stop])
                prefix = roots.setdefault((part.start, whole), -1 - len(roots))
                for column in range(part.start, part.stop):
                    step = (prefix, tokens[column])
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
        """As `merge`, but the mean over a token's occurrences: for values, which may differ where
        keys do not.
        """
        flat = columns.flatten(0, 1)  # (n·length, d)
        total = flat.new_zeros(len(self.first), flat.shape[1]).index_add_(
            0, self.owner.flatten(), flat
        )
        return (total / self.counts[:, None]).T

    def split(self, size: int) -> Iterator[TokenBatch]:
        """Batches of at most `size` prompts."""
        for start in range(0, len(self.prompts), size):
            yield TokenBatch(
                self.prompts[start : start + size], self.ids[start : start + size], self.segments
            )


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of a model's text encoders, each with the columns that its ids get.

    They may differ in more than their words: SDXL's second one has the first one's vocabulary, and
    pads with "!".
    """

    parts: tuple[tuple[Segment, object], ...]

    @staticmethod
    def of(encoders: Sequence[tuple[str, object, int | None, bool]]) -> Tokenizers:
        """From (component, tokenizer, length or None for the tokenizer's own, causal) of each
        encoder.
        """
        parts, start = [], 0
        for component, tokenizer, length, causal in encoders:
            stop = start + (length or tokenizer.model_max_length)
            parts.append((Segment(component, start, stop, causal), tokenizer))
            start = stop
        return Tokenizers(tuple(parts))

    @property
    def eos_token_id(self) -> int:
        """The first one's."""
        return self.parts[0][1].eos_token_id

    def get_vocab(self) -> dict[str, int]:
        """The first one's."""
        return self.parts[0][1].get_vocab()

    def columns(self, encoder: str, ids: Tensor) -> Tensor:
        """An encoder's own of the token ids, shape (n, its length)."""
        (own,) = [segment for segment, _ in self.parts if segment.encoder == encoder]
        return ids[:, own.start : own.stop]


def tokenise(
    tokenizer, prompts: Sequence[str], *, strict: bool = False, length: int | None = None
) -> TokenBatch:
    """Prompts as token ids, padded to the model's length.

    Args:
        tokenizer: one of transformers', or `Tokenizers`.
        strict: refuse prompts that do not fit, since what is cut off would silently not be edited.
        length: if not the tokenizer's own.
    Raises:
        EditError: `strict` and a prompt is longer than the tokenizer's limit.
    """
    if isinstance(tokenizer, Tokenizers):
        own = [
            tokenise(each, prompts, strict=strict, length=part.stop - part.start).ids
            for part, each in tokenizer.parts
        ]
        return TokenBatch(
            tuple(prompts), torch.cat(own, 1), tuple(part for part, _ in tokenizer.parts)
        )
    length = length or tokenizer.model_max_length
    if strict:
        for prompt in prompts:
            needed = (
                len(tokenizer.tokenize(prompt)) + tokenizer.num_special_tokens_to_add()
            )  # start and end
            if needed > length:
                raise EditError(
                    "edit.prompt-too-long",
                    f"'{prompt}' is {needed} tokens long; the model reads {length}",
                    "shorten the concept or the template: what is cut off would not be edited",
                )
    ids = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return TokenBatch(tuple(prompts), ids)
