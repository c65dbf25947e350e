"""EMCID: a mass edit of the text encoder's MLP outputs, spread over several blocks.

First, a descent finds for each concept prompt what the last edited block should output at the
subject's last token, so that the denoiser predicts what it predicts for the target prompt and the
encoder's summary of the prompt is that of the target (dual self-distillation). Then the blocks are
solved for in closed form, one after the other, Δ = R K₁ᵀ (λC₀ + K₁K₁ᵀ)⁻¹. Each takes its share of
the residual that is left at the last block.

Xiong et al., Editing Massive Concepts in Text-to-Image Diffusion Models (arXiv 2403.13807), after
MEMIT (arXiv 2210.07229).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

AUTHORS = {
    "edit": {
        "blocks": 11,
        "lam": 4000.0,
        "ridge": 0.0,
        "positions": "last",
        "balance_empty": False,
    },
    "refine": {
        "steps": 100,
        "lr": 0.2,
        "units": "absolute",
        "align": 0.01,
        "decay": 5e-4,
        "clamp": 1.5,
        "guidance": 7.5,
    },
}
EARLIER = {
    "edit.preset": "default",
    "edit.prior": 0.0,
    "edit.blocks": 4,
    "refine.units": "relative",
}


class EditSettings(BaseModel):
    """Parameters of the closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "authors"] = Field(
        "default", description="'authors': the columns and values of the published code."
    )
    prior: Weight = Field(
        1.0,
        description="Weight of the recipe's prior ([preserve] prior) in the mean moment, relative "
        "to that of the preserve prompts. 0: none.",
    )
    sites: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Text encoder blocks whose mlp.fc2 is edited; if there are none: `blocks`.",
    )
    blocks: Count = Field(
        4,
        description="That many blocks before the last one, or as many as there are. Published: 11 "
        "(0 to 10 of 12).",
    )
    lam: Positive = Field(
        100.0,
        description="λ: weight of the preserve prompts' mean second moment. Published, with "
        "100,000 captions: 4000 to 10000.",
    )
    ridge: Weight = Field(
        0.01,
        description="Added to the diagonal of that moment, relative to the diagonal's mean. "
        "Published: 0, which needs many preserve prompts.",
    )
    positions: Literal["last", "from-last"] = Field(
        # Measured on the embedded model: padding is similar in all prompts. Editing it as well
        # moved the predictions for preserve prompts by 4.6 % (without it 0.5 %; at λ = 10 by
        # 17.8 %) and did not forget more.
        "last",
        description="Tokens that are edited: the last token of the subject ('last', as published), "
        "or that one and all after it, including padding ('from-last').",
    )
    balance_empty: bool = Field(
        True, description="Count the empty prompt as often as all other preserve prompts together."
    )


class RefineSettings(BaseModel):
    """Parameters of the descent that finds the values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: Count = Field(
        60, description="Descent steps. Published: 100 to 200 for each concept separately."
    )
    lr: Positive = Field(0.2, description="Learning rate of Adam, in `units`. Published: 0.2.")
    units: Literal["relative", "absolute"] = Field(
        "relative",
        description="'relative': to the size of the outputs. 'absolute': as published; `decay` is "
        "then divided by the square of the output's norm.",
    )
    batch: Count = Field(16, description="Images per step.")
    align: Weight = Field(
        0.01,
        description="Weight of the text alignment: the distance of the summary token to the "
        "target's. Published: 0.01.",
    )
    decay: Weight = Field(
        5e-4,
        description="Weight of the size of the change relative to the output's. Published: 5e-4.",
    )
    clamp: Positive = Field(
        1.5, description="Largest change relative to the norm of the output. Published: 1.5."
    )
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (0, 1000), description="Range of timesteps, out of the model's 1000."
    )
    latent_steps: Count = Field(
        10, description="Sampler steps when the noisy images are generated."
    )
    guidance: Annotated[float, Field(ge=1)] = Field(
        3.0, description="Guidance when the noisy images are generated. Published: 7.5."
    )

    @model_validator(mode="after")
    def _range(self) -> RefineSettings:
        if self.timesteps[0] >= self.timesteps[1]:
            raise ValueError("timesteps must be [lower, upper] with lower < upper")
        return self


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    refine: RefineSettings = RefineSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "edit", {"authors": AUTHORS})


SEARCH = {
    "edit.lam": Range(1.0, 1e4, log=True),
    "edit.prior": Range(1e-2, 1e1, log=True),
    "edit.positions": Choice(("last", "from-last")),
    "refine.steps": Range(20, 120),
    "refine.lr": Range(0.05, 0.5, log=True),
}
