"""MACE's closed-form refinement: the words around a concept no longer carry it.

In a prompt with the concept, every other token has seen it too. The key and value layers are
refitted so that these tokens
put out what they put out in the same prompt with the target:

    W' = (λW + Σ W c*cᵀ + η_p Σ W c_p c_pᵀ)(λI + Σ ccᵀ + η_p Σ c_p c_pᵀ)⁻¹

c are the contexts of the tokens beside the concept, the padding after it among them, c* those of
the same tokens beside the
target, c_p all tokens of the preserve prompts.
Lu et al., MACE: Mass Concept Erasure in Diffusion Models (arXiv 2403.06135), its first stage only.
The second, a LoRA for
each concept that takes the concept out of its own tokens, needs training and masks of pictures, and
is not done here. The
concept's own tokens are therefore mapped as well (``own_tokens``): without that stage the prompt
would still name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.progress import Observer

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Weight = Field(
        10.0,
        description="λ: pulls towards the unedited weights; published: 10 to 1000 for objects, none beside a large prior",
    )
    preserve: Weight = Field(
        0.8,
        description="η_p: weight of the preserve prompts; published: 0.8 for one concept, 8 for many",
    )
    own_tokens: bool = Field(
        True,
        description="map the concept's own tokens too; false is the published first stage, made for a second one",
    )


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()


SEARCH = {
    "edit.lam": Range(1e-1, 1e3, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
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
    pairs = pair_columns(model, task.pairs, "aligned" if settings.own_tokens else "beside")
    preserve = prompt_columns(model, task.preserve, "all", pairs)
    solved = ridge_map(
        pairs.concepts, pairs.targets, preserve, settings.lam, keep=settings.preserve
    )
    deltas = {}
    for site in sites:
        deltas[site.name] = stored_weight(model.base, site) @ solved.matrix
        observer.advance()
    return edited(
        model, deltas, preserve, solved.rcond, pairs, heldout_columns(model, task.heldout, "all")
    )
