"""The algorithm of RECE.

Every stage has the form W_{n+1} = W_n (I + T_n) with T_n the same for all layers of a group.
Therefore W_n = W₀A_n with one A_n for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.editing.context_columns import (
    PairColumns,
    held_columns,
    heldout_columns,
    pair_columns,
)
from forgetcli.editing.context_layers import ContextLayers, context_layers, edited, joined
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import RidgeMap, adversarial_columns, ridge_map
from forgetcli.methods.rece import EditSettings, Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task.

    `Edit.losses` has, for each round, the fraction of the concepts that the search still found:
    Σ‖W₀c‖² − min Σ‖W_n c' − W₀c‖² − λ_a Σ‖c'‖², relative to the first term. If the denoiser has
    several groups of layers, it is that of the group in which the search found most.

    Raises:
        EditError: a prompt is too long, or a linear system cannot be solved.
    """
    return joined(
        [edit_group(group, task, parameters, observer) for group in context_layers(model)]
    )


def edit_group(
    group: ContextLayers, task: Task, parameters: Parameters, observer: Observer
) -> Edit:
    """The edit of layers that have the same input."""
    settings, rounds = parameters.edit, parameters.adversarial
    source = group.source
    observer.stage(group.name, 1 + rounds.epochs)
    pairs = pair_columns(source, task.pairs, settings.positions)
    where = settings.held_positions or settings.positions
    held = held_columns(source, task, settings, where, pairs, folded=True)
    kept = held.columns
    if settings.share:
        share = max(settings.preserve, 1 / len(task.preserve))
        settings = settings.model_copy(update={"preserve": share})
    weights = {site.name: group.weight(site) for site in group.sites}  # W₀
    gram = sum(W.T @ W for W in weights.values())  # (d, d)

    solved = erased(pairs.concepts, pairs, kept, settings)
    A = torch.eye(len(gram), dtype=torch.float64) + solved.matrix  # W₁ = W₀A
    found: list[float] = []
    observer.advance()
    if rounds.positions:
        pairs = pair_columns(source, task.pairs, rounds.positions)
    if rounds.ridge:
        settings = settings.model_copy(update={"lam": rounds.ridge})
    for _ in range(rounds.epochs):
        cross = A.T @ gram  # Σ W_nᵀW₀
        adversarial = adversarial_columns(cross @ A, cross, pairs.concepts, rounds.lam)
        # At the minimum, the objective is its constant minus ⟨c', Σ W_nᵀW₀ c⟩.
        gain = (adversarial * (cross @ pairs.concepts)).sum()
        found.append(float(gain / ((gram @ pairs.concepts) * pairs.concepts).sum()))
        solved = erased(adversarial, pairs, kept, settings, hold=rounds.hold)
        A = A + A @ solved.matrix
        observer.advance(found=found[-1])
    return edited(
        group,
        {name: W @ A - W for name, W in weights.items()},
        held.prompts,
        rcond=solved.rcond,
        pairs=pairs,
        heldout=heldout_columns(source, task.heldout, settings.positions),
        losses=tuple(found),
    )


def erased(
    columns: Tensor,
    pairs: PairColumns,
    preserve: Tensor,
    settings: EditSettings,
    hold: bool = False,
) -> RidgeMap:
    """UCE's map of the columns to the targets, with the preserve columns kept.

    Args:
        columns: the concepts' contexts, or what a round found for them, shape (d, n).
        preserve: contexts of the preserve prompts, shape (d, p).
        hold: also keep the concepts' contexts, as strongly as the columns are mapped.
    """
    kept = preserve
    if hold:
        weighted = pairs.concepts * (settings.erase / settings.preserve) ** 0.5
        kept = torch.cat([preserve, weighted], 1)
    return ridge_map(
        columns,
        pairs.targets,
        kept,
        lam=settings.lam,
        erase=settings.erase,
        keep=settings.preserve,
    )
