"""Unified Concept Editing: every cross-attention key and value layer, in one ridge regression.

    W' = (λW + η_e Σ v*cᵀ + η_p Σ W c_p c_pᵀ)(λI + η_e Σ ccᵀ + η_p Σ c_p c_pᵀ)⁻¹

c are the concepts' contexts, v* = W c* with c* the targets' contexts, c_p the contexts of the
preserve prompts.

Gandikota et al., Unified Concept Editing in Diffusion Models (arXiv 2308.14761), eq. 7; weights as
in its code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.cost import Cost
from forgetcli.editing.search_space import Choice, Range
from forgetcli.editing.task import Task

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EditSettings(BaseModel):
    """Parameters of the closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Weight = Field(
        0.5, description="Ridge λ. Larger values keep the weights nearer to the unedited ones."
    )
    erase: Weight = Field(1.0, description="η_e: weight of the concepts.")
    preserve: Weight = Field(1.0, description="η_p: weight of the preserve prompts.")
    positions: Literal["last", "from-last", "all"] = Field(
        "last",
        description="Tokens that are edited: the last token of the subject ('last'), that one and "
        "all after it ('from-last'), or all tokens ('all').",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()


SEARCH = {
    "edit.lam": Range(1e-2, 1e2, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "edit.positions": Choice(("last", "from-last", "all")),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model: every prompt is encoded once."""
    return Cost(encoded=2 * len(task.pairs) + len(task.preserve))
