"""The algorithm of Orthogonal Concept Erasure."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.editing.context_columns import held_columns, heldout_columns, pair_columns
from forgetcli.editing.context_layers import ContextLayers, context_layers, edited, joined
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import nearest_rotation, span
from forgetcli.methods.oce import EditSettings, Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer

LAYERS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, or the denoiser has no such layers.
    """
    groups = context_layers(model, LAYERS[parameters.edit.layers])
    return joined([edit_group(group, task, parameters.edit, observer) for group in groups])


def edit_group(
    group: ContextLayers, task: Task, settings: EditSettings, observer: Observer
) -> Edit:
    """The edit of layers that have the same input."""
    observer.stage(group.name, len(group.sites))
    pairs = pair_columns(group.source, task.pairs, settings.positions)
    held = held_columns(group.source, task, settings, settings.positions, pairs)
    kept = [(settings.preserve, held.prompts)]
    if held.prior.shape[1]:  # its columns have the root of its weight in them; C_g is a mean
        mean = held.prior / (settings.prior * held.prior.shape[1]) ** 0.5
        kept.append((settings.prior, mean))
    deltas = {}
    for site in group.sites:
        W = group.weight(site)
        deltas[site.name] = rotation(W, pairs.concepts, pairs.targets, kept, settings) @ W - W
        observer.advance()
    return edited(
        group,
        deltas,
        held.prompts,
        pairs=pairs,
        heldout=heldout_columns(group.source, task.heldout, settings.positions),
    )


def rotation(
    W: Tensor,
    concepts: Tensor,
    targets: Tensor,
    kept: list[tuple[float, Tensor]],
    settings: EditSettings,
) -> Tensor:
    """Q, float64, shape (m, m).

    It is found within the range of W, where all its columns lie, and is the identity outside: where
    W has more rows than columns, M says nothing of the directions beyond.

    Args:
        W: float64, shape (m, d).
        concepts, targets: contexts, shape (d, n).
        kept: weight and contexts (d, p) of what is to stay.
    """
    B = span(W)  # (m, r)
    E = span(B.T @ W @ concepts, settings.energy)
    G = span(B.T @ W @ targets, settings.energy)
    stays = [(settings.lam, B.T @ W), *((weight, B.T @ W @ C) for weight, C in kept)]
    S = -settings.erase * (E @ E.T) @ (torch.eye(len(E), dtype=W.dtype) - G @ G.T)
    for weight, values in stays:
        S = S + weight * unit(values, E, settings.scale) * (values @ values.T)
    # With directions beyond, a reflection within is part of a rotation.
    beyond = B.shape[1] < len(W)
    Q = nearest_rotation(S, reflections=settings.reflect or beyond)
    return B @ Q @ B.T + torch.eye(len(W), dtype=W.dtype) - B @ B.T


def unit(values: Tensor, E: Tensor, scale: str) -> float:
    """What `values` (r, p) weigh by: 1, or 1 over the mean square of their part in the concepts'
    directions E (r, k), so that a weight of 1 holds these as strongly as η_e = 1 reflects them.
    """
    if scale == "absolute" or not values.shape[1]:
        return 1.0
    inside = float((E.T @ values).square().sum()) / max(E.shape[1], 1)
    return 1 / inside if inside else 1.0
