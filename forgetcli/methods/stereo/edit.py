"""The algorithm of STEREO."""

from __future__ import annotations

from dataclasses import replace

import torch

from forgetcli.editing.adversarial_rounds import Drift, Target
from forgetcli.editing.edit import Edit
from forgetcli.editing.finetuning import edit_of, trained_names
from forgetcli.editing.task import Task
from forgetcli.methods.stereo import Parameters
from forgetcli.methods.stereo.stages import Erase, Search, Training, erase, search
from forgetcli.methods.stereo.subjects import Subjects
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights of the denoiser, all concepts trained together. Preserve prompts only measure
    how far a round moves them.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or a loss is no longer
            finite.
    """
    first, second = parameters.search, parameters.erase
    names = trained_names(model, parameters.train.train_method)
    subjects = Subjects.of(model, task.concepts or (task.pairs,), second.anchor)
    training = Training(
        model,
        names,
        Target.of_task(model, task, first, observer),
        parameters.train.batch,
        torch.Generator().manual_seed(task.seed),
        observer,
        fresh=parameters.sample if parameters.sample.model == "edited" else None,
    )
    found, attacks, losses = search(
        training,
        Search(
            rounds=first.rounds,
            steps=first.steps,
            lr=first.lr,
            eta=first.eta,
            budget=first.budget,
            budget_batch=first.budget_batch,
            budget_lr=first.budget_lr,
        ),
        subjects,
        Drift.of(model, task, observer),
    )
    # From the unedited weights, which are the model's.
    changes, last = erase(
        training,
        Erase(second.steps, second.lr, second.attract, second.repel),
        subjects,
        found,
    )
    edited = edit_of(model, {model.DENOISER: changes}, [*losses, *last])
    return replace(edited, attacks=tuple(attack.as_dict() for attack in attacks))
