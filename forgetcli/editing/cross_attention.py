"""What cross-attention reads of a prompt, as columns, for the methods that edit its `to_k` and
`to_v`.

All these layers have the same input, the context c of a token, so a closed form that asks for W c →
W c* is Δ = W T with
a map T that does not depend on W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.errors import EditError
from forgetcli.linalg import drift
from forgetcli.models.tokens import TokenBatch, tokenise

Positions = Literal["last", "from-last", "all", "beside", "aligned"]
LAYERS = ("to_k", "to_v")
BATCH = 64  # prompts encoded at a time


@dataclass(frozen=True)
class PairColumns:
    """Contexts of concept prompts and, column by column, of what they should turn into.

    Attributes:
        concepts, targets: float64, shape (d, n). A column that n pairs share stands there n times,
            as in the papers' sums.
        changed: the concept columns of which something else is asked, as token ids up to and with
            the column's own.
    """

    concepts: Tensor
    targets: Tensor
    changed: frozenset[tuple[int, ...]] = frozenset()


def contexts(model, batch: TokenBatch) -> Tensor:
    """The unedited encoder's context of every position: float64, on the CPU, shape (prompts,
    length, d).
    """
    with torch.no_grad():
        return torch.cat(
            [model.encode(part.ids).hidden.cpu().double() for part in batch.split(BATCH)]
        )


def pair_columns(model, pairs: Sequence[tuple[str, str]], positions: Positions) -> PairColumns:
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
            rows.append(row), left.append(i), right.append(j)
            if concept[: i + 1] != target[: j + 1]:
                changed.add(tuple(concept[: i + 1]))
    return PairColumns(C[rows, left].T, T[rows, right].T, frozenset(changed))


def prompt_columns(
    model, prompts: Sequence[str], positions: Positions, pairs: PairColumns | None = None
) -> Tensor:
    """Contexts of prompts that stay, each distinct one once: at the last word (`last`), from it on,
    or everywhere; (d, n).

    Of the empty prompt all positions count, whatever is asked: classifier-free guidance reads them
    at every step. What the
    pairs change is left out: "a dog" within the preserved "a dog house" is the very column that
    shall become "a cat".
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
            columns = range(
                0 if positions == "all" or end == 0 else end,
                end + 1 if positions == "last" and end else len(ids),
            )
            for column in columns:
                prefix = int(own.owner[start + row, column])
                if prefix not in seen and tuple(ids[: column + 1]) not in changed:
                    seen.add(prefix)
                    kept.append(C[row, column])
        start += len(part.prompts)
    return torch.stack(kept, 1) if kept else C.new_empty(C.shape[-1], 0)


def words_of(model, batch: TokenBatch) -> TokenBatch:
    """The tokens that stand at the context's positions. Where two encoders' states lie side by
    side, both have the same words there.
    """
    return batch.of(model.encoders[0].component)


def words(tokenizer, ids: Sequence[int]) -> list[int]:
    """Token ids up to the end-of-text token: the start token and the prompt's own."""
    return (
        list(ids[: list(ids).index(tokenizer.eos_token_id)])
        if tokenizer.eos_token_id in ids
        else list(ids)
    )


def shared_ends(concept: Sequence[int], target: Sequence[int]) -> tuple[int, int]:
    """How many tokens both prompts have in common at their start, the start token among them, and
    at their end.

    What is between is the subject. It is one token at least in both: where a prompt only adds words
    ("dog" → "hot dog",
    "dog" → "dog toy"), the shared word next to them is the subject too.
    """
    limit = min(len(concept), len(target)) - 1
    start = 0
    while start < limit and concept[start] == target[start]:
        start += 1
    end = 0
    while start + end < limit and concept[-1 - end] == target[-1 - end]:
        end += 1
    return start, end


def subject_ends(concept: Sequence[int], target: Sequence[int]) -> tuple[int, int]:
    """Positions of the last subject token of both prompts; at least the first one after the start
    token.

    "van gogh" and "monet" in "a van gogh picture" → "a monet picture" end where the common "
    picture" begins.
    """
    _, end = shared_ends(concept, target)
    return max(1, len(concept) - 1 - end), max(1, len(target) - 1 - end)


def matches(
    concept: Sequence[int], target: Sequence[int], length: int, positions: Positions
) -> list[tuple[int, int]]:
    """Positions of the concept prompt, each with the position of the target prompt that it should
    become.

    Args:
        concept, target: `words` of the prompts.
        length: of the padded prompts.
        positions: `last`: the last subject token; `from-last`: that one and all after it, by their
            distance from it;
            `all`: every position with the same one of the target prompt; `beside`: all but the
                subject's own, those before
            it by position, those after it by distance; `aligned`: these and the subject's own, the
            last with the last
            (what a longer concept has in front becomes the target's first).
    """
    if positions == "all":
        return [(i, i) for i in range(length)]
    a, b = subject_ends(concept, target)
    if positions == "last":
        return [(a, b)]
    after = [(a + k, b + k) for k in range(1, length - max(a, b))]
    if positions == "from-last":
        return [(a, b), *after]
    start = max(1, shared_ends(concept, target)[0])
    own = (
        [(i, max(start, b - (a - i))) for i in range(start, a + 1)]
        if positions == "aligned"
        else []
    )
    return [(i, i) for i in range(start)] + own + after


def pick(model, layers: Sequence[str] = LAYERS):
    """The cross-attention sites whose name ends so, in the model's order.

    Raises:
        EditError: the denoiser has none.
    """
    found = [
        site for name, site in model.cross_attention.items() if name.rpartition(".")[2] in layers
    ]
    if not found:
        raise EditError(
            "edit.no-cross-attention",
            "the denoiser has no cross-attention that could be edited",
            "use a method that edits the text encoder: nullspace",
        )
    return found


def edited(
    model,
    deltas: Mapping[str, Tensor],
    preserve: Tensor,
    rcond: float | Mapping[str, float] | None = None,
    pairs: PairColumns | None = None,
    heldout: Tensor | None = None,
    null: Mapping[str, object] | None = None,
    **more,
) -> Edit:
    """The edit with these changes, site by site, and its figures.

    Args:
        deltas: site name → Δ, float64, shape (m, d).
        preserve: contexts that should stay, shape (d, n).
        rcond: of the systems that were solved: one for all sites, or each site's.
        pairs: what was asked for: W c → W c*.
        heldout: contexts that should stay and that the edit did not see, shape (d, n).
        null: each site's projector, if the edit has one.
    """
    weights, reports = {}, []
    for name, delta in deltas.items():
        site = model.cross_attention[name]
        W = stored_weight(model.base, site)
        fit = None
        if pairs is not None:
            wanted = W @ (pairs.targets - pairs.concepts)
            fit = float((delta @ pairs.concepts - wanted).norm() / wanted.norm().clamp_min(1e-300))
        weights[site.component, site.parameter] = W + delta
        projector = null[name] if null else None
        reports.append(
            SiteReport(
                name,
                float(delta.norm() / W.norm()),
                fit=fit,
                rcond=rcond[name] if isinstance(rcond, Mapping) else rcond,
                preserve_drift=drift(delta, W, preserve),
                heldout_drift=None if heldout is None else drift(delta, W, heldout),
                null_dim=projector.rank if projector else None,
                eig_below=projector.eig_below if projector else None,
                eig_above=projector.eig_above if projector else None,
            )
        )
    return Edit(weights, tuple(reports), **more)


def heldout_columns(model, prompts: Sequence[str], positions: Positions) -> Tensor | None:
    """Contexts of a task's held-out prompts; None if it has none."""
    return prompt_columns(model, prompts, positions) if prompts else None
