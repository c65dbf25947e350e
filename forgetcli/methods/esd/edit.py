"""The algorithm of ESD: the trained changes, added to the weights."""

from __future__ import annotations

from forgetcli.editing import finetuning
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.methods.esd import Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights of the denoiser, all concepts trained together. Preserve prompts are not used.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or the loss is no longer
            finite.
    """
    changes, losses = finetuning.train(model, task.pairs, parameters, task.seed, observer)
    return finetuning.edit_of(model, {model.DENOISER: changes}, losses)
