"""The algorithm of ESD: the trained changes, added to the weights."""

from __future__ import annotations

from forgetcli.editing import finetuning
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.editing.task import Task
from forgetcli.methods.esd import Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.models.tensors import read_tensor
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights of the denoiser, all concepts trained together. Preserve prompts are not used.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or the loss is no longer
            finite.
    """
    changes, losses = finetuning.train(model, task.pairs, parameters, task.seed, observer)
    weights, reports = {}, []
    for parameter, change in changes.items():
        # The file's weights: those in memory are rounded to the dtype that the model runs in.
        W = read_tensor(model.base.folder, model.base.locate("unet", parameter)[0]).double()
        delta = change.cpu().double()
        weights["unet", parameter] = W + delta
        reports.append(
            SiteReport(
                parameter.removesuffix(".weight"), float(delta.norm() / W.norm().clamp_min(1e-300))
            )
        )
    return Edit(weights, tuple(reports), tuple(losses))
