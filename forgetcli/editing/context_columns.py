"""Contexts of prompts as columns: the inputs of the cross-attention's key and value layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.editing.alignment import Positions, matches, shared_ends, subject_ends, words
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.prior import prior_prompts
from forgetcli.editing.task import Task
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
    *,
    each: bool = False,
) -> Tensor:
    """Contexts of prompts to preserve, shape (d, n), each distinct one once: at the last word
    (`last`), from it on (`from-last`), or everywhere (`all`).

    All positions of the empty prompt count, whatever `positions` says: classifier-free guidance
    reads them at every step. Columns that the pairs change are left out: "a dog" within the
    preserved "a dog house" is the very column that is mapped to "a cat".

    Args:
        each: every occurrence of a column counts, also of those that the pairs change.
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
            stop = end + 1 if positions in ("last", "prompt-last") and end else len(ids)
            columns = range(first, stop)
            for column in columns:
                prefix = int(own.owner[start + row, column])
                if each or (prefix not in seen and tuple(ids[: column + 1]) not in changed):
                    seen.add(prefix)
                    kept.append(C[row, column])
        start += len(part.prompts)
    return torch.stack(kept, 1) if kept else C.new_empty(C.shape[-1], 0)


@dataclass(frozen=True)
class Held:
    """Contexts that an edit holds.

    Attributes:
        prompts: of the preserve prompts, float64, shape (d, p).
        prior: of the prior's prompts, times the root of their weight, float64, shape (d, q).
    """

    prompts: Tensor
    prior: Tensor

    @property
    def columns(self) -> Tensor:
        """Both, shape (d, p + q)."""
        return torch.cat([self.prompts, self.prior], 1)


def held_columns(
    model: LoadedModel,
    task: Task,
    settings: HeldColumns,
    positions: Positions,
    pairs: PairColumns,
) -> Held:
    """The contexts that the task's preserve prompts and its prior name.

    Of the prior, words that are the subject of a pair are left out: it would hold "dog" where "a
    picture of a dog" is edited.
    """
    each = settings.columns == "each"
    kept = [prompt for prompt in task.preserve if prompt or settings.empty]
    prompts = (
        prompt_columns(model, kept, positions, pairs, each=each) if kept else pairs.concepts[:, :0]
    )
    others = prior_prompts(model.tokenizer, task) if settings.prior else []
    known = set(task.preserve)
    others = [prompt for prompt in others if prompt not in known]
    if not others:
        return Held(prompts, prompts[:, :0])
    subjects = subjects_of(model, task.pairs)
    rows = words_of(model, tokenise(model.tokenizer, others)).ids.tolist()
    free = [
        prompt
        for prompt, ids in zip(others, rows, strict=True)
        if tuple(words(model.tokenizer, ids)[1:]) not in subjects
    ]
    if not free:
        return Held(prompts, prompts[:, :0])
    prior = prompt_columns(model, free, positions, pairs, each=each)
    return Held(prompts, prior * settings.prior**0.5)


def subjects_of(model: LoadedModel, pairs: Sequence[tuple[str, str]]) -> set[tuple[int, ...]]:
    """The tokens of the pairs' subjects, as the encoder of the contexts reads them."""
    concepts, targets = (
        words_of(model, tokenise(model.tokenizer, [pair[side] for pair in pairs])).ids.tolist()
        for side in (0, 1)
    )
    found = set()
    for concept, target in zip(concepts, targets, strict=True):
        a, b = words(model.tokenizer, concept), words(model.tokenizer, target)
        start = max(1, shared_ends(a, b)[0])
        found.add(tuple(a[start : subject_ends(a, b)[0] + 1]))
    return found


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
