"""What the denoiser's layers read of prompts, as columns: the tokens' hidden states, or the pooled
embedding.

A source has one column a position. Its parts say which text encoder's tokens stand at which
positions, how the positions of a concept prompt and its target correspond, and when two columns are
the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from forgetcli.editing.alignment import Positions, matches, pieces, words
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.encoder import TextEncoder
from forgetcli.models.tokens import TokenBatch

if TYPE_CHECKING:
    from forgetcli.models.tokens import Tokenizer

# (text encoder, the tokens that the column is a function of, position)
ColumnId = tuple[str, tuple[int, ...], int]

START = -1  # stands for the start token of an encoder that has none


@dataclass(frozen=True)
class Part(ABC):
    """Columns of a source that come from the tokens of one text encoder.

    Attributes:
        encoder: the text encoder. Where the outputs of several are concatenated along the width,
            the first of them: all read the same words.
        first: the position of the part's first column.
        tokenizer: the text encoder's tokenizer.
    """

    encoder: TextEncoder
    first: int
    tokenizer: Tokenizer

    @property
    @abstractmethod
    def starts(self) -> int:
        """The number of its first columns that are the same for every prompt."""

    @abstractmethod
    def length(self, ids: Sequence[int]) -> int:
        """The number of its columns."""

    @abstractmethod
    def matched(
        self, concept: Sequence[int], target: Sequence[int], positions: Positions
    ) -> list[tuple[int, int]]:
        """Its columns of the concept prompt, each with the target prompt's that it is mapped to."""

    @abstractmethod
    def held(self, ids: Sequence[int], positions: Positions) -> range:
        """Its columns of a prompt to preserve."""

    @abstractmethod
    def identity(self, ids: tuple[int, ...], column: int) -> ColumnId:
        """Equal for columns that are the same function of the same tokens."""

    def rows(self, batch: TokenBatch) -> list[tuple[int, ...]]:
        """The token ids of each prompt, as the text encoder reads them."""
        return [tuple(ids) for ids in batch.of(self.encoder.component).ids.tolist()]


class TokenPart(Part):
    """One column for each token."""

    @property
    def starts(self) -> int:
        return int(self.encoder.has_start_token)

    def length(self, ids: Sequence[int]) -> int:
        return len(ids)

    def matched(
        self, concept: Sequence[int], target: Sequence[int], positions: Positions
    ) -> list[tuple[int, int]]:
        """See `alignment.matches`.

        For the alignment, an encoder without a start token is given one. Where it stands for an
        empty prompt's last token, the end token takes its place.
        """
        a, b = pieces(self.tokenizer, concept), pieces(self.tokenizer, target)
        if self.starts:
            return matches(a, b, len(concept), positions)
        found = matches([START, *a], [START, *b], 1 + len(concept), positions)
        return [(max(i - 1, 0), max(j - 1, 0)) for i, j in found if (i, j) != (0, 0)]

    def held(self, ids: Sequence[int], positions: Positions) -> range:
        """The last word's, all from it on, or all; all of the empty prompt."""
        end = len(words(self.tokenizer, ids)) - 1
        if positions == "all" or end < self.starts:
            return range(len(ids))
        return range(end, end + 1 if positions in ("last", "prompt-last") else len(ids))

    def identity(self, ids: tuple[int, ...], column: int) -> ColumnId:
        read = ids[: column + 1] if self.encoder.causal else ids
        return self.encoder.component, read, column


class PromptPart(Part):
    """One column for the whole prompt, whichever positions are asked for."""

    @property
    def starts(self) -> int:
        return 0

    def length(self, ids: Sequence[int]) -> int:
        return 1

    def matched(
        self, concept: Sequence[int], target: Sequence[int], positions: Positions
    ) -> list[tuple[int, int]]:
        return [(0, 0)]

    def held(self, ids: Sequence[int], positions: Positions) -> range:
        return range(1)

    def identity(self, ids: tuple[int, ...], column: int) -> ColumnId:
        return self.encoder.component, ids, column


@dataclass(frozen=True)
class ContextSource:
    """Columns that layers of the denoiser read.

    Attributes:
        model: the model whose unedited text encoders are read.
        parts: the parts, each at its own positions.
        columns: the encoded prompts → the columns of each, shape (n, positions, d).
    """

    model: LoadedModel
    parts: tuple[Part, ...]
    columns: Callable[[Context], Tensor]

    def read(self, batch: TokenBatch, size: int) -> Tensor:
        """The columns of prompts, which are encoded `size` at a time: float64, on the CPU, shape
        (prompts, positions, d).
        """
        with torch.no_grad():
            return torch.cat(
                [
                    self.columns(self.model.encode(part.ids)).cpu().double()
                    for part in batch.split(size)
                ]
            )


def token_states(model: LoadedModel) -> ContextSource:
    """The tokens' hidden states: the input of cross-attention, and of the layer by which other
    transformers read the tokens.
    """
    parts = tuple(
        TokenPart(encoder, first, model.tokenizer_of(encoder))
        for encoder, first in model.context_tokens
    )
    return ContextSource(model, parts, lambda context: context.hidden)


def pooled_embedding(model: LoadedModel) -> ContextSource:
    """The pooled embeddings of the prompts, for denoisers that read them."""
    encoder = model.encoders[0]
    parts = (PromptPart(encoder, 0, model.tokenizer_of(encoder)),)
    return ContextSource(model, parts, lambda context: context.pooled_embeddings[:, None])
