"""Unified Concept Editing: every cross-attention key and value layer, in one ridge regression.

W' = (λW + η_e Σ v*cᵀ + η_p Σ W c_p c_pᵀ)(λI + η_e Σ ccᵀ + η_p Σ c_p c_pᵀ)⁻¹, v* = W c*, c* the
target's context
Gandikota et al., Unified Concept Editing in Diffusion Models (arXiv 2308.14761), eq. 7; weights as
in its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.pipeline.estimates import Work
    from forgetcli.progress import Observer

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Weight = Field(0.5, description="λ: pulls towards the unedited weights")
    erase: Weight = Field(1.0, description="η_e: weight of the concepts")
    preserve: Weight = Field(1.0, description="η_p: weight of the preserve prompts")
    positions: Literal["last", "from-last", "all"] = Field(
        "last",
        description="tokens that are edited: the last of the subject, or also all after it, or all",
    )


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()


SEARCH = {
    "edit.lam": Range(1e-2, 1e2, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "edit.positions": Choice(("last", "from-last", "all")),
}


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the recipe, solved together.

    Raises:
        EditError: a prompt is too long, or the linear algebra cannot be done.
    """
    from forgetcli.editing.closed_form import stored_weight
    from forgetcli.editing.cross_attention import (
        edited,
        heldout_columns,
        pair_columns,
        pick,
        prompt_columns,
    )
    from forgetcli.linalg import ridge_map

    settings, sites = parameters.edit, pick(model)
    observer.stage("cross-attention", len(sites))
    pairs = pair_columns(model, task.pairs, settings.positions)
    preserve = prompt_columns(model, task.preserve, settings.positions, pairs)
    solved = ridge_map(
        pairs.concepts, pairs.targets, preserve, settings.lam, settings.erase, settings.preserve
    )
    deltas = {}
    for site in sites:
        deltas[site.name] = stored_weight(model.base, site) @ solved.matrix
        observer.advance()
    return edited(
        model,
        deltas,
        preserve,
        solved.rcond,
        pairs,
        heldout_columns(model, task.heldout, settings.positions),
    )


def work(task: Task, parameters: Parameters) -> Work:
    """What the edit asks of the model, for estimates."""
    from forgetcli.pipeline.estimates import Work

    return Work(encoded=2 * len(task.pairs) + len(task.preserve))
