"""The algorithm: the text encoder's half, the cross-attention's half, or both."""

from __future__ import annotations

from forgetcli.editing.context_layers import pick
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.methods.nullspace import Parameters, cross_attention, text_encoder
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, the denoiser has no cross-attention
            that could be edited, or a linear system cannot be solved.
    """
    layers = parameters.edit.layers
    if layers == "text-encoder":
        return text_encoder.edit(model, task, parameters, observer)
    pick(model)  # refuse a denoiser without cross-attention before the other half is computed
    if layers == "cross-attention":
        return cross_attention.edit(model, task, parameters, {}, observer)
    first = text_encoder.edit(model, task, parameters, observer)
    second = cross_attention.edit(model, task, parameters, first.weights, observer)
    return Edit(
        weights={**first.weights, **second.weights},
        sites=(*first.sites, *second.sites),
        losses=(*first.losses, *second.losses),
        moments=first.moments,
        cache=first.cache,
        keys={**first.keys, **second.keys},
        attacks=second.attacks,
        drift_limit=second.drift_limit,
    )
