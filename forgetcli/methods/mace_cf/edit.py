"""The algorithm of MACE's closed-form refinement."""

from __future__ import annotations

from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.context_columns import held_columns, heldout_columns, pair_columns
from forgetcli.editing.cross_attention import edited, pick
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import ridge_map
from forgetcli.methods.mace_cf import Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, or the linear system cannot be solved.
    """
    settings = parameters.edit
    sites = pick(model)
    observer.stage("cross-attention", len(sites))
    pairs = pair_columns(model, task.pairs, "aligned" if settings.own_tokens else "beside")
    held = held_columns(model, task, settings, "all", pairs)
    solved = ridge_map(
        pairs.concepts, pairs.targets, held.columns, lam=settings.lam, keep=settings.preserve
    )
    deltas = {}
    for site in sites:
        deltas[site.name] = stored_weight(model.base, site) @ solved.matrix
        observer.advance()
    return edited(
        model,
        deltas,
        held.prompts,
        rcond=solved.rcond,
        pairs=pairs,
        heldout=heldout_columns(model, task.heldout, "all"),
    )
