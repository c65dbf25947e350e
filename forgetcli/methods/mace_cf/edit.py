"""The algorithm of MACE's closed-form refinement."""

from __future__ import annotations

from forgetcli.editing.context_columns import held_columns, heldout_columns, pair_columns
from forgetcli.editing.context_layers import ContextLayers, context_layers, edited, joined
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import ridge_map
from forgetcli.methods.mace_cf import EditSettings, Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, or the linear system cannot be solved.
    """
    return joined(
        [edit_group(group, task, parameters.edit, observer) for group in context_layers(model)]
    )


def edit_group(
    group: ContextLayers, task: Task, settings: EditSettings, observer: Observer
) -> Edit:
    """The edit of layers that have the same input."""
    observer.stage(group.name, len(group.sites))
    source = group.source
    pairs = pair_columns(source, task.pairs, "aligned" if settings.own_tokens else "beside")
    held = held_columns(source, task, settings, "all", pairs, folded=True)
    solved = ridge_map(
        pairs.concepts, pairs.targets, held.columns, lam=settings.lam, keep=settings.preserve
    )
    deltas = {}
    for site in group.sites:
        deltas[site.name] = group.weight(site) @ solved.matrix
        observer.advance()
    return edited(
        group,
        deltas,
        held.prompts,
        rcond=solved.rcond,
        pairs=pairs,
        heldout=heldout_columns(source, task.heldout, "all"),
    )
