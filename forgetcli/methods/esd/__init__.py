"""ESD: the denoiser itself is fine-tuned, with its own negative guidance as the teacher.

Minimised over θ is ‖ε_θ(x_t, c) − [ε(x_t, anchor) − η (ε(x_t, c) − ε(x_t, ∅))]‖², with the
unedited model's ε in the brackets.

Gandikota et al., Erasing Concepts from Diffusion Models (arXiv 2303.07345).

The paper has concepts and no targets. With ``erase_from = "concept"`` the concept prompt is its own
anchor, as in the authors' current code: η = 1 leads to the prediction for the empty prompt, and
their default η = 2 gives 2ε(∅) − ε(c), which is the paper's equation for η = 1. With ``erase_from =
"target"`` the anchor is the recipe's target, as for the other methods here, and η leads beyond it,
away from the concept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

# The authors' later code; the paper's is 'paper'.
AUTHORS = {
    "train": {
        "train_method": "esd-x",
        "erase_from": "concept",
        "eta": 2.0,
        "steps": 200,
        "lr": 5e-5,
        "batch": 1,
    },
    "sample": {"model": "base", "fresh": True, "steps": 50, "guidance": 3.0},
}
PAPER = {
    "train": {**AUTHORS["train"], "steps": 1000, "lr": 1e-5},
    "sample": {**AUTHORS["sample"], "model": "edited"},
}
EARLIER = {"train.preset": "default", "sample.fresh": False}


class TrainSettings(BaseModel):
    """Parameters of the fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "authors", "paper"] = Field(
        "default",
        description="'authors': the values of the authors' later code, 200 steps at 5e-5. 'paper': "
        "1000 steps at 1e-5.",
    )
    train_method: Literal["esd-x", "esd-x-strict", "esd-u"] = Field(
        "esd-x",
        description="Layers that are trained: the cross-attention ('esd-x'), only its key and "
        "value layers ('esd-x-strict'), or all layers except the cross-attention ('esd-u').",
    )
    erase_from: Literal["target", "concept"] = Field(
        "target",
        description="The anchor: the prediction for the target prompt or, as published, for the "
        "concept prompt itself.",
    )
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="η: negative guidance, the distance beyond the anchor, away from the concept. "
        "Published with erase_from = 'concept': 2.",
    )
    steps: Count = Field(
        60, description="Training steps. Published: 1000 at lr 1e-5, later 200 at 5e-5."
    )
    lr: Positive = Field(
        2e-4,
        description="Learning rate of Adam. Models of real size need a lower one: 1e-5 to 5e-5 for "
        "Stable Diffusion 1.4.",
    )
    batch: Count = Field(8, description="Images per step. Published: 1.")


class SampleSettings(BaseModel):
    """Parameters of the noisy images."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Literal["base", "edited"] = Field(
        "base",
        description="Model that generates them: the unedited one, once (the authors' later code), "
        "or the edited one, again at every step (the paper).",
    )
    fresh: bool = Field(
        False,
        description="With model = 'base': a new run for every step, as published, instead of one "
        "for each prompt.",
    )
    steps: Count = Field(10, description="Sampler steps of a complete run. Published: 50.")
    guidance: Annotated[float, Field(ge=1)] = Field(
        3.0, description="Guidance when the noisy images are generated."
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "train", {"authors": AUTHORS, "paper": PAPER})


SEARCH = {
    "train.train_method": Choice(("esd-x", "esd-x-strict", "esd-u")),
    "train.lr": Range(5e-5, 1e-3, log=True),
    "train.steps": Range(40, 200),
    "train.eta": Range(0.0, 2.0),
}
