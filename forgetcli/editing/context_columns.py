"""What the denoiser's layers read of prompts, as columns: those that an edit maps, and those that
it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.editing.alignment import Positions, pieces, shared_ends, subject_ends, words
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.context_sources import ColumnId, ContextSource
from forgetcli.editing.prior import prior_prompts
from forgetcli.editing.task import Task
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import TokenBatch, tokenise

BATCH = 64  # prompts encoded at a time
FOLD_AT = 4 << 30  # bytes


@dataclass(frozen=True)
class PairColumns:
    """Contexts of concept prompts and, column by column, the target contexts to map them to.

    Attributes:
        concepts, targets: float64, shape (d, n). A column that n pairs share occurs n times, as in
            the papers' sums.
        changed: the concept columns that are mapped to another context.
    """

    concepts: Tensor
    targets: Tensor
    changed: frozenset[ColumnId] = frozenset()


def contexts(source: ContextSource, batch: TokenBatch) -> Tensor:
    """The unedited encoder's context of every position: float64, on the CPU, shape (prompts,
    positions, d).
    """
    return source.read(batch, BATCH)


def pair_columns(
    source: ContextSource, pairs: Sequence[tuple[str, str]], positions: Positions
) -> PairColumns:
    """Contexts of the edit pairs at the positions that correspond.

    Raises:
        EditError: a prompt does not fit.
    """
    tokenizer = source.model.tokenizer
    concepts = tokenise(tokenizer, [c for c, _ in pairs], strict=True)
    targets = tokenise(tokenizer, [t for _, t in pairs], strict=True)
    rows = [(part, part.rows(concepts), part.rows(targets)) for part in source.parts]
    left: list[Tensor] = []
    right: list[Tensor] = []
    changed: set[ColumnId] = set()
    for start in range(0, len(pairs), BATCH):
        chosen, from_, to = [], [], []
        stop = min(start + BATCH, len(pairs))
        for row in range(start, stop):
            for part, concept_rows, target_rows in rows:
                concept, target = concept_rows[row], target_rows[row]
                for i, j in part.matched(concept, target, positions):
                    chosen.append(row - start)
                    from_.append(part.first + i)
                    to.append(part.first + j)
                    identity = part.identity(concept, i)
                    if identity != part.identity(target, j):
                        changed.add(identity)
        left.append(contexts(source, concepts[start:stop])[chosen, from_])
        right.append(contexts(source, targets[start:stop])[chosen, to])
    return PairColumns(torch.cat(left).T, torch.cat(right).T, frozenset(changed))


def prompt_columns(
    source: ContextSource,
    prompts: Sequence[str],
    positions: Positions,
    pairs: PairColumns | None = None,
    *,
    each: bool = False,
    folded: bool = False,
) -> Tensor:
    """Contexts of prompts to preserve, shape (d, n), each distinct one once: at the last word
    (`last`), from it on (`from-last`), or everywhere (`all`).

    All positions of the empty prompt count, whatever `positions` says: classifier-free guidance
    reads them at every step. Columns that the pairs change are left out: "a dog" within the
    preserved "a dog house" is the very column that is mapped to "a cat".

    Args:
        each: every occurrence of a column counts, also of those that the pairs change.
        folded: only the second moment of the columns is needed. Where they would take more than
            `FOLD_AT`, they are replaced by d columns that have the same one.
    """
    batch = tokenise(source.model.tokenizer, prompts)
    changed = pairs.changed if pairs else frozenset()
    seen: set[ColumnId] = set()
    kept: list[Tensor] = []  # (d, n_i) each
    for some in batch.split(BATCH):
        C = contexts(source, some)  # (≤ BATCH, positions, d)
        tokens = [(part, part.rows(some)) for part in source.parts]
        rows, columns = [], []
        for row in range(len(some.prompts)):
            for part, ids in ((part, of_prompts[row]) for part, of_prompts in tokens):
                for column in part.held(ids, positions):
                    identity = part.identity(ids, column)
                    if each or (identity not in seen and identity not in changed):
                        seen.add(identity)
                        rows.append(row)
                        columns.append(part.first + column)
        kept.append(C[rows, columns].T)
        if folded and sum(part.numel() for part in kept) * kept[0].itemsize > FOLD_AT:
            kept = [same_moment(torch.cat(kept, 1))]
    return torch.cat(kept, 1).contiguous()


def same_moment(columns: Tensor) -> Tensor:
    """d columns R with R Rᵀ = K Kᵀ, shape (d, d), for K of shape (d, n).

    Columns that are not finite are returned as they are: the solver refuses them by name.
    """
    if not bool(columns.isfinite().all()):
        return columns
    values, vectors = torch.linalg.eigh(columns @ columns.T)
    return vectors * values.clamp_min(0).sqrt()


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
    source: ContextSource,
    task: Task,
    settings: HeldColumns,
    positions: Positions,
    pairs: PairColumns,
    *,
    folded: bool = False,
) -> Held:
    """The contexts that the task's preserve prompts and its prior name.

    Of the prior, words that are the subject of a pair are left out: it would hold "dog" where "a
    picture of a dog" is edited.

    Args:
        folded: see `prompt_columns`.
    """
    model = source.model
    each = settings.columns == "each"
    kept = [prompt for prompt in task.preserve if prompt or settings.empty]
    prompts = pairs.concepts[:, :0]
    if kept:
        prompts = prompt_columns(source, kept, positions, pairs, each=each, folded=folded)
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
    prior = prompt_columns(source, free, positions, pairs, each=each, folded=folded)
    return Held(prompts, prior * settings.prior**0.5)


def subjects_of(model: LoadedModel, pairs: Sequence[tuple[str, str]]) -> set[tuple[int, ...]]:
    """The tokens of the pairs' subjects, as the first text encoder reads them."""
    concepts, targets = (
        words_of(model, tokenise(model.tokenizer, [pair[side] for pair in pairs])).ids.tolist()
        for side in (0, 1)
    )
    found = set()
    for concept, target in zip(concepts, targets, strict=True):
        a, b = pieces(model.tokenizer, concept), pieces(model.tokenizer, target)
        start = max(1, shared_ends(a, b)[0])
        found.add(tuple(concept[start : subject_ends(a, b)[0] + 1]))
    return found


def words_of(model: LoadedModel, batch: TokenBatch) -> TokenBatch:
    """The tokens of the first text encoder, from whose vocabulary the prior is."""
    return batch.of(model.encoders[0].component)


def heldout_columns(
    source: ContextSource, prompts: Sequence[str], positions: Positions
) -> Tensor | None:
    """Contexts of a task's held-out prompts; None if it has none."""
    return prompt_columns(source, prompts, positions) if prompts else None
