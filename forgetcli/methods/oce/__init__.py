"""Orthogonal Concept Erasure: every cross-attention value layer is rotated, W' = Q W.

    Q = argmax tr(QᵀM) over the orthogonal Q
    M = −η_e E Eᵀ(I − GGᵀ) + η_p Σ W c_p (W c_p)ᵀ + η_g W C_g Wᵀ + λ W Wᵀ

E and G are orthonormal bases of the layer's outputs W c of the concepts' contexts and W c* of the
targets'; c_p are the contexts of the preserve prompts, and C_g is the second moment of contexts of
other text. Lengths of the outputs, and all angles between them, stay what they were.

Sun et al., Orthogonal Concept Erasure for Diffusion Models (arXiv 2605.28902), as its code has it
(github.com/HansSunY/OCE, oce.py). Left out: where Q reflects, that code turns the sign of the last
column of Q, so that its determinant is 1 but Q is no longer the maximum. In layers with more rows
than columns the sign that it finds is that of rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.cost import Cost
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.task import Task

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# The published script: every prompt's last token, nothing held but the preserve prompts and C_g.
AUTHORS = {
    "edit": {
        "erase": 1.0,
        "preserve": 0.3,
        "prior": 0.5,
        "lam": 1.5,
        "scale": "absolute",
        "energy": 1.0,
        "positions": "prompt-last",
        "reflect": True,
        "empty": False,
        "columns": "each",
    }
}
EARLIER = {"edit.preset": "default"}


class EditSettings(HeldColumns):
    """Parameters of the closed form."""

    preset: Literal["default", "authors"] = Field(
        "default", description="'authors': the columns and values of the published code."
    )
    erase: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0, description="η_e: weight of the concepts."
    )
    preserve: Weight = Field(0.3, description="η_p: weight of the preserve prompts.")
    prior: Weight = Field(
        1.0, description="η_g: weight of the recipe's prior ([preserve] prior). 0: none."
    )
    lam: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        0.1, description="λ: weight of the unedited layer. Larger values rotate it less."
    )
    scale: Literal["relative", "absolute"] = Field(
        "relative",
        description="'relative': η_p, η_g and λ count in units of what they hold at the concepts' "
        "outputs, so that they mean the same in every model. 'absolute': as published.",
    )
    energy: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="E and G hold this share of the outputs' directions: templates and aliases "
        "bring more directions than the concept has. Published: 1.",
    )
    positions: Literal["last", "prompt-last"] = Field(
        "last",
        description="Tokens that are edited: the last token of the subject ('last') or of the "
        "prompt ('prompt-last', published).",
    )
    layers: Literal["values", "keys", "both"] = Field(
        "values", description="Cross-attention layers that are edited. Published: values."
    )
    reflect: bool = Field(
        True,
        description="Q may reflect (determinant −1), as published. false: the best rotation.",
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
    "edit.erase": Range(1e-1, 1e2, log=True),
    "edit.preserve": Range(1e-3, 1e1, log=True),
    "edit.prior": Range(1e-3, 1e1, log=True),
    "edit.lam": Range(1e-3, 1e1, log=True),
    "edit.layers": Choice(("values", "both")),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model: every prompt is encoded once."""
    others = task.prior_size if parameters.edit.prior else 0
    return Cost(encoded=2 * len(task.pairs) + len(task.preserve) + others)
