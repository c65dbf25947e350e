"""Contexts of prompts as columns: the inputs of the cross-attention's key and value layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.editing.alignment import Positions, matches, words
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import TokenBatch, tokenise

BATCH = 64  # prompts encoded at a time


@dataclass(frozen=True)
class PairColumns:
    """Contexts of concept prompts and, column by column, the target contexts to map them to.

    Attributes:
        concepts, targets: float64, shape (d, n). A column that n pairs share occurs n times, as in
            the papers' sums.
        changed: the concept columns that are mapped to another context, as token ids up to and
            including the column's own.
    """

    concepts: Tensor
    targets: Tensor
    changed: frozenset[tuple[int, ...]] = frozenset()


def contexts(model: LoadedModel, batch: TokenBatch) -> Tensor:
    """The unedited encoder's context of every position: float64, on the CPU, shape (prompts,
    length, d).
    """
    with torch.no_grad():
        return torch.cat(
            [model.encode(part.ids).hidden.cpu().double() for part in batch.split(BATCH)]
        )


def pair_columns(
    model: LoadedModel, pairs: Sequence[tuple[str, str]], positions: Positions
) -> PairColumns:
    """Contexts of the edit pairs at the positions that `matches` pairs.

    Raises:
        EditError: a prompt does not fit.
    """
    concepts = tokenise(model.tokenizer, [c for c, _ in pairs], strict=True)
    targets = tokenise(model.tokenizer, [t for _, t in pairs], strict=True)
    C, T = contexts(model, concepts), contexts(model, targets)  # (pairs, length, d)
    concepts, targets = words_of(model, concepts), words_of(model, targets)
    rows, left, right, changed = [], [], [], set()
    for row, (concept, target) in enumerate(zip(concepts.ids.tolist(), targets.ids.tolist())):
        for i, j in matches(
            words(model.tokenizer, concept), words(model.tokenizer, target), len(concept), positions
        ):
            rows.append(row)
            left.append(i)
            right.append(j)
            if concept[: i + 1] != target[: j + 1]:
                changed.add(tuple(concept[: i + 1]))
    return PairColumns(C[rows, left].T, T[rows, right].T, frozenset(changed))


def prompt_columns(
    model: LoadedModel,
    prompts: Sequence[str],
    positions: Positions,
    pairs: PairColumns | None = None,
) -> Tensor:
    """Contexts of prompts to preserve, shape (d, n), each distinct one once: at the last word
    (`last`), from it on (`from-last`), or everywhere (`all`).

    All positions of the empty prompt count, whatever `positions` says: classifier-free guidance
    reads them at every step. Columns that the pairs change are left out: "a dog" within the
    preserved "a dog house" is the very column that is mapped to "a cat".
    """
    batch = tokenise(model.tokenizer, prompts)
    own = words_of(model, batch)
    changed = pairs.changed if pairs else frozenset()
    seen: set[int] = set()
    kept, start = [], 0
    for part in batch.split(BATCH):
        C = contexts(model, part)  # (≤ BATCH, length, d)
        for row, ids in enumerate(words_of(model, part).ids.tolist()):
            end = len(words(model.tokenizer, ids)) - 1  # 0 for the empty prompt
            first = 0 if positions == "all" else end
            stop = end + 1 if positions == "last" and end else len(ids)
            columns = range(first, stop)
            for column in columns:
                prefix = int(own.owner[start + row, column])
                if prefix not in seen and tuple(ids[: column + 1]) not in changed:
                    seen.add(prefix)
                    kept.append(C[row, column])
        start += len(part.prompts)
    return torch.stack(kept, 1) if kept else C.new_empty(C.shape[-1], 0)


def words_of(model: LoadedModel, batch: TokenBatch) -> TokenBatch:
    """The tokens at the context's positions. Where the states of two encoders are concatenated,
    both encode the same words there.
    """
    return batch.of(model.encoders[0].component)


def heldout_columns(
    model: LoadedModel, prompts: Sequence[str], positions: Positions
) -> Tensor | None:
    """Contexts of a task's held-out prompts; None if it has none."""
    return prompt_columns(model, prompts, positions) if prompts else None
