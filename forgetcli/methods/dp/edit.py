"""The algorithm of DP."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.editing.context_columns import (
    Held,
    PairColumns,
    held_columns,
    heldout_columns,
    pair_columns,
)
from forgetcli.editing.context_layers import ContextLayers, context_layers, edited, joined
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import left_null_map, left_null_space, safe_proxies, span
from forgetcli.methods.dp import EditSettings, Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer

LAYERS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or the preserve prompts
            leave no direction free.
    """
    groups = context_layers(model, LAYERS[parameters.edit.layers])
    return joined([edit_group(group, task, parameters.edit, observer) for group in groups])


def edit_group(
    group: ContextLayers, task: Task, settings: EditSettings, observer: Observer
) -> Edit:
    """The edit of layers that have the same input."""
    observer.stage(group.name, len(group.sites))
    pairs = pair_columns(group.source, task.pairs, settings.positions)
    folded = settings.proxy != "safe"  # a span is one of the columns themselves
    held = held_columns(group.source, task, settings, settings.positions, pairs, folded=folded)
    projector = left_null_space(held.columns, settings.threshold, settings.min_rank)
    proxies = PairColumns(pairs.concepts, proxy_columns(pairs, held, settings), pairs.changed)
    solved = left_null_map(proxies.concepts, proxies.targets, projector, settings.cutoff)
    deltas = {}
    for site in group.sites:
        deltas[site.name] = group.weight(site) @ solved.matrix
        observer.advance(null_dim=projector.rank)
    return edited(
        group,
        deltas,
        held.prompts,
        rcond=solved.rcond,
        pairs=proxies,
        heldout=heldout_columns(group.source, task.heldout, settings.positions),
        null={site.name: projector for site in group.sites},
    )


def proxy_columns(pairs: PairColumns, held: Held, settings: EditSettings) -> Tensor:
    """c*, what each concept's context is mapped to, shape (d, n)."""
    if settings.proxy == "target":
        return pairs.targets
    if settings.proxy == "targets":
        return safe_proxies(pairs.concepts, span(pairs.targets))
    safe = torch.cat([pairs.targets, held.prompts], 1)
    return safe_proxies(pairs.concepts, span(safe, settings.safe_energy))
