"""MACE's closed-form refinement: the words around a concept no longer carry it.

In a prompt with the concept, every other token has read it too. The key and value layers are
refitted so that their outputs for these tokens are those for the same tokens in a prompt with the
target:

    W' = (λW + Σ W c*cᵀ + η_p Σ W c_p c_pᵀ)(λI + Σ ccᵀ + η_p Σ c_p c_pᵀ)⁻¹

c are the contexts of the tokens beside the concept, including the padding after it; c* are the
contexts of the same tokens beside the target; c_p are all tokens of the preserve prompts.

Lu et al., MACE: Mass Concept Erasure in Diffusion Models (arXiv 2403.06135), first stage only. The
second stage trains a LoRA for each concept that removes the concept from its own tokens. It needs
training and segmentation masks of images, and is not implemented here. The concept's own tokens are
therefore mapped as well (``own_tokens``): otherwise the prompt would still name the concept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing import columns
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Range

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# The published first stage for objects, which holds nothing. That for celebrities and styles has
# λ = 0 and needs the moments of 400,000 captions.
AUTHORS = {
    "edit": {
        "lam": 10.0,
        "preserve": 0.0,
        "own_tokens": False,
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
        10.0,
        description="Ridge λ. Larger values keep the weights nearer to the unedited ones. "
        "Published: 10 to 1000 for objects, none together with a large set of preserve prompts.",
    )
    preserve: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.8,
        description="η_p: weight of the preserve prompts. Published: 0 for objects; for "
        "celebrities and styles 8e-5 (one concept) and 8e-4 (many).",
    )
    own_tokens: bool = Field(
        True,
        description="Also map the concept's own tokens. False is the published first stage, which "
        "leaves them to the second stage.",
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
    "edit.lam": Range(1e-1, 1e3, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "edit.prior": Range(1e-2, 1e1, log=True),
}
