"""The edit pairs as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.models.tokens import TokenBatch, tokenise


@dataclass(frozen=True)
class Pairs:
    """Concept prompts and, row by row, their target prompts, as tokens.

    Attributes:
        concepts, targets: tokens, n rows each.
        movable: bool, shape (distinct concept prefixes,): the tokens whose outputs may change.
    """

    concepts: TokenBatch
    targets: TokenBatch
    movable: Tensor

    @staticmethod
    def of(tokenizer: Any, pairs: Sequence[tuple[str, str]], positions: str) -> Pairs:
        """Tokenise (concept prompt, target prompt) pairs.

        Args:
            positions: `from-concept`: tokens before the first difference of the two prompts are
                not movable. Otherwise all are.
        Raises:
            EditError: a prompt is too long.
        """
        concepts = tokenise(tokenizer, [concept for concept, _ in pairs], strict=True)
        targets = tokenise(tokenizer, [target for _, target in pairs], strict=True)
        movable = torch.ones(len(concepts.first), dtype=torch.bool)
        for part in concepts.parts if positions == "from-concept" else ():
            if part.causal:
                # Up to the first token that differs, the encoder reads the same in both prompts:
                # nothing is to change there.
                columns = slice(part.start, part.stop)
                same = (concepts.ids[:, columns] == targets.ids[:, columns]).cumprod(1).bool()
                movable[concepts.owner[:, columns][same]] = False
        return Pairs(concepts, targets, movable)

    def of_encoder(self, encoder: str) -> Pairs:
        """The same pairs as one text encoder reads them."""
        for part in self.concepts.parts if len(self.concepts.parts) > 1 else ():
            if part.encoder == encoder:
                # The encoder's distinct prefixes, in the order in which they first occur. That is
                # how its own batch numbers them.
                distinct = self.concepts.owner[:, part.start : part.stop].unique()
                return Pairs(
                    self.concepts.of(encoder), self.targets.of(encoder), self.movable[distinct]
                )
        return self
