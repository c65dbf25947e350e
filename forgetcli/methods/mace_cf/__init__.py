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

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Range

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EditSettings(BaseModel):
    """Parameters of the closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Weight = Field(
        10.0,
        description="Ridge λ. Larger values keep the weights nearer to the unedited ones. "
        "Published: 10 to 1000 for objects, none together with a large set of preserve prompts.",
    )
    preserve: Weight = Field(
        0.8,
        description="η_p: weight of the preserve prompts. Published: 0.8 for one concept, 8 for "
        "many.",
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


SEARCH = {
    "edit.lam": Range(1e-1, 1e3, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
}
