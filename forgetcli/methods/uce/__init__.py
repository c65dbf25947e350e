"""Unified Concept Editing: every cross-attention key and value layer, in one ridge regression.

    W' = (λW + η_e Σ v*cᵀ + η_p Σ W c_p c_pᵀ)(λI + η_e Σ ccᵀ + η_p Σ c_p c_pᵀ)⁻¹

In Stable Diffusion 3 and FLUX, which have no such layers, it edits the layer that reads the tokens
and the one that reads the pooled embedding, each by its own regression.

c are the concepts' contexts, v* = W c* with c* the targets' contexts, c_p the contexts of the
preserve prompts.

Gandikota et al., Unified Concept Editing in Diffusion Models (arXiv 2308.14761), eq. 7; weights as
in its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing import columns
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.cost import Cost
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.task import Task

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# The published script: every prompt's last token, nothing held but the preserve prompts.
AUTHORS = {
    "edit": {
        "lam": 0.5,
        "erase": 1.0,
        "preserve": 1.0,
        "positions": "prompt-last",
        "prior": 0.0,
        "empty": False,
        "columns": "each",
    }
}
EARLIER = {"edit.preset": "default", **columns.EARLIER}


class EditSettings(HeldColumns):
    """Parameters of the closed form."""

    preset: Literal["default", "authors"] = Field(
        "default", description="'authors': the columns and values of the published code."
    )
    lam: Weight = Field(
        0.5, description="Ridge λ. Larger values keep the weights nearer to the unedited ones."
    )
    erase: Weight = Field(1.0, description="η_e: weight of the concepts.")
    preserve: Weight = Field(1.0, description="η_p: weight of the preserve prompts.")
    positions: Literal["last", "prompt-last", "from-last", "all"] = Field(
        "last",
        description="Tokens that are edited: the last token of the subject ('last') or of the "
        "prompt ('prompt-last', published), the subject's and all after it ('from-last'), or all "
        "tokens ('all').",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "edit", {"authors": AUTHORS})


SEARCH = {
    "edit.lam": Range(1e-2, 1e2, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "edit.prior": Range(1e-2, 1e1, log=True),
    "edit.positions": Choice(("last", "from-last", "all")),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model: every prompt is encoded once."""
    others = task.prior_size if parameters.edit.prior else 0
    return Cost(encoded=2 * len(task.pairs) + len(task.preserve) + others)
