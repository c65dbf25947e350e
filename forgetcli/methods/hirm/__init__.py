"""HiRM: the first block of the text encoder is trained, so that the last block's representation of
the concept's prompts is another one.

    min over θ₁ of  1/T Σ_t ‖h_t − c·g_t‖²

h_t is what the last block that the denoiser reads makes of the prompt at position t. With
``direction = "semantic"`` (HiRM-S) g_t is the same of the target's prompt by the unedited encoder;
with ``"random"`` (HiRM-R) it is a random unit vector. Nothing is preserved by the loss: few steps
on few weights are to leave the rest as it was.

Lee et al., Localized Concept Erasure in Text-to-Image Diffusion Models via High-Level
Representation Misdirection (arXiv 2602.19631). The paper and its code could not be read here: loss
and values are those of a public summary (github.com/zhaoyang97/Paper-Notes-en). It does not say
which optimiser is used (here Adam), which weights of the first layer are meant (here those of its
linear layers, without biases), and how the random vectors are drawn (here normal, one for each
position).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.cost import Cost
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.task import Task

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

# The published values for objects. Styles: 30 and 40 steps; nudity: 25 and 50 at 1e-4.
AUTHORS = {
    "train": {
        "direction": "semantic",
        "coefficient": 1.0,
        "steps": 15,
        "lr": 5e-5,
        "weights": "block",
        "positions": "all",
    }
}
AUTHORS_RANDOM = {
    "train": {**AUTHORS["train"], "direction": "random", "coefficient": 500.0, "steps": 25}
}


class TrainSettings(BaseModel):
    """Parameters of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "authors", "authors-random"] = Field(
        "default",
        description="'authors': the published values of HiRM-S for objects. 'authors-random': "
        "those of HiRM-R.",
    )
    direction: Literal["semantic", "random"] = Field(
        "semantic",
        description="What the representation is moved to: the target's ('semantic'), or a random "
        "unit vector ('random').",
    )
    coefficient: Positive = Field(
        1.0,
        description="c: length of what the representation is moved to. Published: 1 for "
        "'semantic', 500 for 'random'.",
    )
    steps: Count = Field(100, description="Training steps. Published, one prompt a step: 15 to 50.")
    lr: Positive = Field(2e-4, description="Learning rate of Adam. Published: 5e-5.")
    batch: Count = Field(16, description="Prompts per step.")
    weights: Literal["block", "attention", "mlp"] = Field(
        "block",
        description="Linear layers of the first block that are trained: all ('block'), those of "
        "its self-attention or of its MLP.",
    )
    positions: Literal["all", "from-concept"] = Field(
        "all",
        description="Token positions in the loss: all, as published, or those from the first one "
        "on at which the two prompts differ. What both prompts begin with is held by 'semantic' "
        "and moved by 'random'.",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    train: TrainSettings = TrainSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "train", {"authors": AUTHORS, "authors-random": AUTHORS_RANDOM})


SEARCH = {
    "train.steps": Range(10, 200),
    "train.lr": Range(5e-5, 5e-3, log=True),
    "train.weights": Choice(("block", "attention", "mlp")),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model: a gradient costs twice as much as the encoding."""
    train = parameters.train
    prompts = min(train.batch, len(task.pairs))
    return Cost(encoded=len(task.pairs) + 3 * train.steps * prompts)
