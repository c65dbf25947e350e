"""The algorithm of SPEED."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.context_columns import (
    contexts,
    held_columns,
    heldout_columns,
    pair_columns,
)
from forgetcli.editing.context_layers import ContextLayers, context_layers, edited, joined
from forgetcli.editing.context_sources import ContextSource
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
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer

LAYERS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, the preserve prompts leave no null space, or a linear
            system cannot be solved.
    """
    groups = context_layers(model, LAYERS[parameters.edit.layers])
    return joined([edit_group(group, task, parameters, observer) for group in groups])


def edit_group(
    group: ContextLayers, task: Task, parameters: Parameters, observer: Observer
) -> Edit:
    """The edit of layers that have the same input."""
    settings, source = parameters.edit, group.source
    observer.stage(group.name, len(group.sites))
    pairs = pair_columns(source, task.pairs, settings.positions)
    wanted = parameters.prior
    choice = HeldColumns(prior=wanted.weight, empty=wanted.empty, columns=wanted.columns)
    held = held_columns(source, task, choice, settings.positions, pairs)
    K2 = invariant_columns(source, settings.invariants)
    # With these, CCᵀ and C*Cᵀ are means.
    root = pairs.concepts.shape[1] ** 0.5
    C, C_star = pairs.concepts / root, pairs.targets / root
    generator = torch.Generator().manual_seed(task.seed)
    deltas: dict[str, Tensor] = {}
    rcond: dict[str, float] = {}
    projectors: dict[str, Projector] = {}
    for site in group.sites:
        W = group.weight(site)
        projector = prior(W, C, C_star, held.columns, parameters, generator)
        solved = constrained_map(C, C_star, projector, K2, settings.alpha, settings.lam)
        deltas[site.name] = W @ solved.matrix
        rcond[site.name] = solved.rcond
        projectors[site.name] = projector
        observer.advance(null_dim=projector.rank)
    return edited(
        group,
        deltas,
        held.prompts,
        rcond=rcond,
        pairs=pairs,
        heldout=heldout_columns(source, task.heldout, settings.positions),
        null=projectors,
    )


def invariant_columns(source: ContextSource, count: int) -> Tensor:
    """K₂, shape (d, k): for each part of the source, the start token's context, if there is one,
    and `count` means of the others of the empty prompt.
    """
    empty = tokenise(source.model.tokenizer, [""])
    read = contexts(source, empty)[0]  # (positions, d)
    found = []
    for part in source.parts:
        (ids,) = part.rows(empty)
        columns = read[part.first : part.first + part.length(ids)].T.contiguous()
        found.append(columns[:, : part.starts])
        if count:
            found.append(centroids(columns[:, part.starts :], count))
    return torch.cat(found, 1)


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
