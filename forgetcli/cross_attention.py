"""What cross-attention reads of a prompt, as columns, for the methods that edit its `to_k` and `to_v`.

All these layers have the same input, the context c of a token, so a closed form that asks for W c → W c* is Δ = W T with
one map T for all of them.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forgetcli.closed_form import stored_weight
from forgetcli.edits import Edit, SiteReport
from forgetcli.errors import EditError
from forgetcli.prompts import TokenBatch, tokenise

Positions = Literal["last", "from-last", "all"]
LAYERS = ("to_k", "to_v")


@dataclass(frozen=True)
class PairColumns:
    """Contexts of concept prompts and, column by column, of what they should turn into; float64, shape (d, n)."""

    concepts: Tensor
    targets: Tensor


def contexts(model, batch: TokenBatch) -> Tensor:
    """The unedited encoder's context of every position: float64, on the CPU, shape (prompts, length, d)."""
    with torch.no_grad():
        return torch.cat([model.encode(part.ids).double().cpu() for part in batch.split(64)])


def pair_columns(model, pairs: Sequence[tuple[str, str]], positions: Positions) -> PairColumns:
    """Contexts of the edit pairs at their subject.

    The subject of a pair ends with the last token before what both prompts have in common at their end: "van gogh" and
    "monet" in "a van gogh picture" → "a monet picture".

    Args:
        positions: `last`: the last subject token; `from-last`: that one and all after it, paired by their distance from it;
            `all`: every position with the same one of the target prompt.
    """
    concepts = tokenise(model.tokenizer, [c for c, _ in pairs], strict=True)
    targets = tokenise(model.tokenizer, [t for _, t in pairs], strict=True)
    C, T = contexts(model, concepts), contexts(model, targets)        # (n, length, d)
    if positions == "all":
        return PairColumns(C.flatten(0, 1).T, T.flatten(0, 1).T)
    left, right = [], []
    for row, (concept, target) in enumerate(zip(concepts.ids.tolist(), targets.ids.tolist())):
        a, b = subject_ends(words(model.tokenizer, concept), words(model.tokenizer, target))
        count = 1 if positions == "last" else len(concept) - max(a, b)
        left.append(C[row, a:a + count]), right.append(T[row, b:b + count])
    return PairColumns(torch.cat(left).T, torch.cat(right).T)


def prompt_columns(model, prompts: Sequence[str], positions: Positions) -> Tensor:
    """Contexts of prompts that stay, each once: at their last word (`last`), from there on, or everywhere; (d, n)."""
    batch = tokenise(model.tokenizer, prompts)
    C = contexts(model, batch)
    if positions == "all":
        return batch.merge(C)
    ends = [len(words(model.tokenizer, ids)) - 1 for ids in batch.ids.tolist()]          # the start token of an empty prompt
    parts = [C[row, end:end + 1] if positions == "last" else C[row, end:] for row, end in enumerate(ends)]
    return torch.cat(parts).T.unique(dim=1) if positions == "last" else torch.cat(parts).T


def words(tokenizer, ids: Sequence[int]) -> list[int]:
    """Token ids up to the end-of-text token: the start token and the prompt's own."""
    return list(ids[:list(ids).index(tokenizer.eos_token_id)]) if tokenizer.eos_token_id in ids else list(ids)


def subject_ends(concept: Sequence[int], target: Sequence[int]) -> tuple[int, int]:
    """Positions of the last subject token of both prompts; at least the first one after the start token."""
    same = 0
    while same < min(len(concept), len(target)) - 1 and concept[-1 - same] == target[-1 - same]:
        same += 1
    return max(1, len(concept) - 1 - same), max(1, len(target) - 1 - same)


def pick(model, layers: Sequence[str] = LAYERS):
    """The cross-attention sites whose name ends so, in the model's order.

    Raises:
        EditError: the denoiser has none.
    """
    found = [site for name, site in model.cross_attention.items() if name.rpartition(".")[2] in layers]
    if not found:
        raise EditError("edit.no-cross-attention", "the denoiser has no cross-attention that could be edited", "edit the text encoder instead")
    return found


def edited(model, deltas: Mapping[str, Tensor], preserve: Tensor, rcond: float | None = None, pairs: PairColumns | None = None,
           **more) -> Edit:
    """The edit with these changes, site by site, and its figures.

    Args:
        deltas: site name → Δ, float64, shape (m, d).
        preserve: contexts that should stay, shape (d, n).
        pairs: what was asked for: W c → W c*.
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
        reports.append(SiteReport(name, float(delta.norm() / W.norm()), rcond=rcond, fit=fit,
                                  preserve_drift=float((delta @ preserve).norm() / (W @ preserve).norm().clamp_min(1e-300))))
    return Edit(weights, tuple(reports), **more)
