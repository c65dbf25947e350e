"""SPEED: an edit of the cross-attention values, in the null space of the prompts that it would
harm. In Stable Diffusion 3 and FLUX it edits the two layers that read prompts.

    Δ = W (S_at − S_tt) P [I − M K₂ (K₂ᵀ P M K₂ + λI)⁻¹ K₂ᵀ P] M

with M = (S_tt P + αI)⁻¹, S_at = mean c*cᵀ, S_tt = mean ccᵀ; c are the concepts' contexts, c* the
targets'. Three steps make the null space, layer by layer, since W differs:

- Filtering keeps the preserve prompts that the same edit without protection,
  W (S_at − S_tt)(I + S_tt)⁻¹, would move by more than the mean.
- Augmentation adds copies of them with noise along the directions with the smallest singular
  values of W, and filters the copies in the same way.
- P projects onto the null space of their second moment.

K₂ does not move at all, since every image is generated with it: the start token and means of the
empty prompt's contexts.

Li et al., SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models (arXiv
2503.07392).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

# The published script for few concepts: every prompt's last token, an absolute cut.
AUTHORS = {
    "edit": {
        "alpha": 1.0,
        "lam": 0.0,
        "threshold": 0.1,
        "scale": "absolute",
        "min_rank": 0,
        "invariants": 3,
        "layers": "values",
        "positions": "prompt-last",
    },
    "prior": {
        "weight": 0.0,
        "empty": False,
        "columns": "each",
        "filter": True,
        "copies": 10,
        "directions": 1,
    },
}
EARLIER = {
    "edit.preset": "default",
    "edit.scale": "mean",
    "prior.weight": 0.0,
    "prior.empty": True,
    "prior.columns": "distinct",
}


class EditSettings(BaseModel):
    """Parameters of the closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "authors"] = Field(
        "default", description="'authors': the columns and values of the published code."
    )
    alpha: Weight = Field(
        1.0,
        description="Ridge α. Larger values change the weights less. Published: 1 for few "
        "concepts, 0.7 for nudity, 0.05 for many concepts.",
    )
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0,
        description="λ: softens the constraint on the empty prompt; 0 is an exact constraint. "
        "Published: 0, and 0.5 for nudity.",
    )
    threshold: Weight = Field(
        0.1,
        description="Null space: directions with eigenvalues below the threshold. Published: 0.1 "
        "for few concepts, 1e-4 for many.",
    )
    scale: Literal["mean", "absolute"] = Field(
        "mean",
        description="The threshold is relative to the mean eigenvalue, or absolute, as published. "
        "In Stable Diffusion 1 that mean is about 1.",
    )
    min_rank: Count = Field(
        16,
        description="Smallest allowed dimension of the null space. Published: 0, which leaves "
        "nothing to edit in a narrow encoder.",
    )
    invariants: Count = Field(
        3,
        description="Number of means of the empty prompt's contexts that must not move, in "
        "addition to the start token.",
    )
    layers: Literal["values", "keys", "both"] = Field(
        "values",
        description="Cross-attention layers that are edited. Denoisers without cross-attention "
        "(Stable Diffusion 3, FLUX) have one layer for the tokens and one for the pooled "
        "embedding; both are edited, whatever this says.",
    )
    positions: Literal["last", "prompt-last", "from-last", "all"] = Field(
        "last",
        description="Tokens that are edited: the last token of the subject ('last') or of the "
        "prompt ('prompt-last', published), the subject's and all after it ('from-last'), or all "
        "tokens ('all'; published for nudity).",
    )


class PriorSettings(BaseModel):
    """Parameters of the prompts that make the null space."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="Weight of the recipe's prior ([preserve] prior) relative to that of the "
        "preserve prompts. 0: none.",
    )
    empty: bool = Field(
        False,
        description="Also the empty prompt, at all its positions. Without it, it is held by the "
        "invariants alone, as published.",
    )
    columns: Literal["distinct", "each"] = Field(
        "distinct",
        description="'distinct': every context counts once, and none is held that the edit maps. "
        "'each': every occurrence counts, as published.",
    )
    filter: bool = Field(
        True,
        description="Keep only the preserve prompts that the edit would move by more than the "
        "mean. Published: false for many concepts.",
    )
    copies: Count = Field(10, description="Noisy copies of each preserve prompt that is kept.")
    directions: Annotated[int, Field(ge=1)] = Field(
        1,
        description="Number of singular directions of W along which the copies differ, those with "
        "the smallest singular values.",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    prior: PriorSettings = PriorSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "edit", {"authors": AUTHORS})


SEARCH = {
    "edit.alpha": Range(1e-2, 1e1, log=True),
    "edit.threshold": Range(1e-4, 1.0, log=True),
    "edit.layers": Choice(("values", "both")),
    "edit.positions": Choice(("last", "from-last", "all")),
    "prior.filter": Choice((True, False)),
    "prior.weight": Range(1e-2, 1e1, log=True),
}
