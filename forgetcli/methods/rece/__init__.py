"""RECE: UCE, followed by rounds that search for the concept in the edited model and erase what
they find.

A round asks for which contexts the edited layers W_n still produce the output that the unedited
layers W₀ produce for the concept,

    c' = (λ_a I + Σ W_nᵀW_n)⁻¹ (Σ W_nᵀW₀) c

with both sums over all cross-attention layers, so that one c' serves all of them. (In Stable
Diffusion 3 and FLUX: over the one layer that has the input.) It erases these contexts as UCE does,

    W_{n+1} = (λW_n + η_e Σ v*c'ᵀ + η_p Σ W_n c_p c_pᵀ)(λI + η_e Σ c'c'ᵀ + η_p Σ c_p c_pᵀ)⁻¹

with v* = W_n c*. λ_a keeps c' small, and with it the side effects of the round.

Gong et al., Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models (arXiv
2407.12383).

In the published form a round has no term for c itself and may undo what earlier stages did.
``hold`` adds one: W_{n+1}c should stay W_n c. Measured on the embedded model (dog → cat, three
rounds, λ_a = 0.1, ten images): seven images show a dog without it, none with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing import columns
from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Positions = Literal["last", "from-last", "prompt-from-last", "all"]
# The published script: UCE's first version, then rounds over all positions, and everything as often
# as it occurs.
AUTHORS = {
    "edit": {
        "lam": 0.5,
        "erase": 1.0,
        "preserve": 0.1,
        "share": True,
        "positions": "prompt-from-last",
        "held_positions": "all",
        "prior": 0.0,
        "columns": "each",
    },
    "adversarial": {"epochs": 1, "lam": 1e-3, "ridge": 0.1, "positions": "all", "hold": False},
}
EARLIER = {
    "edit.preset": "default",
    "edit.share": False,
    "edit.held_positions": None,
    "adversarial.ridge": None,
    "adversarial.positions": None,
    **columns.EARLIER,
}


class EditSettings(HeldColumns):
    """Parameters of the closed form of every stage."""

    preset: Literal["default", "authors"] = Field(
        "default", description="'authors': the columns and values of the published code."
    )
    lam: Weight = Field(
        0.1,
        description="Ridge λ. Larger values keep the weights nearer to those before the stage.",
    )
    erase: Weight = Field(
        1.0, description="η_e: weight of the concepts and of the contexts that the rounds find."
    )
    preserve: Weight = Field(0.1, description="η_p: weight of the preserve prompts.")
    share: bool = Field(
        False, description="η_p is at least 1/n for n preserve prompts, as published."
    )
    held_positions: Positions | None = Field(
        None,
        description="Tokens of the preserve prompts that are held; `positions` if absent. "
        "Published: all.",
    )
    positions: Positions = Field(
        "from-last",
        description="Tokens that are edited: the last token of the subject ('last'), that one and "
        "all after it ('from-last'), the prompt's last and all after it ('prompt-from-last', "
        "published), or all tokens ('all').",
    )


class AdversarialSettings(BaseModel):
    """Parameters of the rounds after the first stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Number of rounds; 0 is UCE. Published: 1 for styles and objects, 2 or 3 for "
        "unsafe content.",
    )
    lam: Weight = Field(
        1e-3,
        description="λ_a. Larger values search nearer to zero. Published: 0.001 for styles and "
        "hard objects, 0.1 for easy objects and unsafe content.",
    )
    ridge: Weight | None = Field(
        None, description="λ of the rounds; [edit] lam if absent. Published: 0.1 after 0.5."
    )
    positions: Positions | None = Field(
        None,
        description="Tokens that the rounds search and erase; those of [edit] if absent. "
        "Published: all.",
    )
    hold: bool = Field(
        False,
        description="Also keep the concepts' outputs of the stages before, which the published "
        "rounds may undo.",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    adversarial: AdversarialSettings = AdversarialSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "edit", {"authors": AUTHORS})


SEARCH = {
    "edit.lam": Range(1e-2, 1e2, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "edit.prior": Range(1e-2, 1e1, log=True),
    "adversarial.epochs": Range(1, 5),
    "adversarial.lam": Range(1e-3, 1e1, log=True),
    "adversarial.hold": Choice((False, True)),
}
