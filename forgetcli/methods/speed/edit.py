"""The algorithm of SPEED."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.context_columns import (
    held_columns,
    heldout_columns,
    pair_columns,
    prompt_columns,
)
from forgetcli.editing.cross_attention import edited, pick
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import (
    Projector,
    augmented,
    centroids,
    constrained_map,
    most_moved,
    null_projector,
    ridge_map,
)
from forgetcli.methods.speed import Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer

LAYERS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, the preserve prompts leave no null space, or a linear
            system cannot be solved.
    """
    settings = parameters.edit
    sites = pick(model, LAYERS[settings.layers])
    observer.stage("cross-attention", len(sites))
    pairs = pair_columns(model, task.pairs, settings.positions)
    wanted = parameters.prior
    choice = HeldColumns(prior=wanted.weight, empty=wanted.empty, columns=wanted.columns)
    held = held_columns(model, task, choice, settings.positions, pairs)
    K2 = invariant_columns(model, settings.invariants)
    # With these, CCᵀ and C*Cᵀ are means.
    root = pairs.concepts.shape[1] ** 0.5
    C, C_star = pairs.concepts / root, pairs.targets / root
    generator = torch.Generator().manual_seed(task.seed)
    deltas: dict[str, Tensor] = {}
    rcond: dict[str, float] = {}
    projectors: dict[str, Projector] = {}
    for site in sites:
        W = stored_weight(model.base, site)
        projector = prior(W, C, C_star, held.columns, parameters, generator)
        solved = constrained_map(C, C_star, projector, K2, settings.alpha, settings.lam)
        deltas[site.name] = W @ solved.matrix
        rcond[site.name] = solved.rcond
        projectors[site.name] = projector
        observer.advance(null_dim=projector.rank)
    return edited(
        model,
        deltas,
        held.prompts,
        rcond=rcond,
        pairs=pairs,
        heldout=heldout_columns(model, task.heldout, settings.positions),
        null=projectors,
    )


def invariant_columns(model: LoadedModel, count: int) -> Tensor:
    """K₂, shape (d, 1 + count): the start token's context and means of the others of the empty
    prompt.
    """
    empty = prompt_columns(model, [""], "all")  # (d, length), the start token first
    if not count:
        return empty[:, :1]
    return torch.cat([empty[:, :1], centroids(empty[:, 1:], count)], 1)


def prior(
    W: Tensor,
    C: Tensor,
    C_star: Tensor,
    preserve: Tensor,
    parameters: Parameters,
    generator: torch.Generator,
) -> Projector:
    """P of one layer: the null space of the preserve columns, refined as the recipe's [prior] says.

    Args:
        W: float64, shape (m, d).
        C, C_star: the concepts' and targets' contexts, scaled so that CCᵀ is their mean moment,
            shape (d, n).
        preserve: shape (d, p).
    """
    if preserve.shape[1] == 0:
        return Projector.identity(len(C))
    # The change that the edit would make without protection.
    unprotected = W @ ridge_map(C, C_star, preserve[:, :0], lam=1.0).matrix
    kept = most_moved(preserve, unprotected) if parameters.prior.filter else preserve
    if parameters.prior.copies:
        copies = augmented(kept, W, parameters.prior.copies, parameters.prior.directions, generator)
        kept = torch.cat([kept, most_moved(copies, unprotected)], 1)
    moment = kept @ kept.T / kept.shape[1]
    settings = parameters.edit
    mean = float(moment.diagonal().mean())  # of the eigenvalues
    relative = 1.0 if settings.scale == "mean" or not mean else mean
    return null_projector(moment, settings.threshold / relative, settings.min_rank)
