"""Null-space edit of the text encoder's MLP outputs, with target values refined for the denoiser.

Per site Δ = R A with A = (K₁ᵀ P K₁ + λI)⁻¹ K₁ᵀ P (AlphaEdit, arXiv 2410.02355). If the model was
edited before, the keys of the earlier edits are protected too. The residual R is the change of the
layer's output at the concept prompts' tokens. A descent finds it, so that the denoiser reads from
the concept prompt what it read from the target prompt.

The default differs from the published form (``preset = "reference"``) in three points
(docs/methods.md has the measurements):

- ``mode = "joint"`` descends on the change *through* the closed form, at all sites together, by
  L-BFGS over all prompts at once. The size of the change (``damping``) is part of the loss. So the
  loss is that of the weights as they will be written, under the projector. The published form
  refines V₁ as if it could be set freely, one site after the other, and applies the constraint
  afterwards.
- ``match = "attention"`` compares what the denoiser's cross-attention reads from the contexts,
  without running the denoiser.
- ``prior`` adds the second moment of the recipe's prior, frequent vocabulary words, to the ridge.
  It protects concepts that no preserve prompt names.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing import unlearning_sizes as sizes
from forgetcli.editing.cost import Cost
from forgetcli.editing.presets import filled
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.task import Task

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

REFERENCE = {
    "edit": {
        "sites": (1, 2, 3),
        "lam": 200.0,
        "scale": "sum",
        "threshold": 1 / 90000,
        "min_rank": 100,
        "positions": "all",
        "balance_empty": False,
        "prior": 0.0,
    },
    "refine": {
        "mode": "sequential",
        "match": "denoiser",
        "steps": 6,
        "epochs": 10,
        "lr": 0.2,
        "batch": 8,
        "timesteps": (10, 50),
        "latent_steps": 10,
        "guidance": 7.5,
    },
}


class EditSettings(BaseModel):
    """Parameters of the closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "reference"] = Field(
        "default", description="'reference': the published form and its values."
    )
    layers: Literal["text-encoder", "cross-attention", "both"] = Field(
        "text-encoder",
        description="What is edited: the text encoder's MLP outputs, the keys and values of the "
        "denoiser's cross-attention, or both, so that either half alone forgets.",
    )
    sites: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (1, 2, 3), min_length=1, description="Text encoder blocks whose mlp.fc2 is edited."
    )
    encoders: Annotated[tuple[Literal["clip", "t5"], ...], Field(min_length=1)] = Field(
        ("clip",),
        description="Kinds of text encoders that are edited, the same blocks in each.",
    )
    lam: Positive = Field(
        1.0,
        description="Ridge λ. Larger values change the weights less. In joint mode this is the "
        "isotropic part of the penalty; `prior` is the anisotropic part.",
    )
    prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0,
        description="Weight of the recipe's prior ([preserve] prior): its mean second moment is "
        "added to λI. It protects concepts that no preserve prompt names. 0: none.",
    )
    scale: Literal["mean", "sum"] = Field(
        "mean", description="λ is relative to the mean over the concept tokens, or to their sum."
    )
    threshold: Positive = Field(
        3 / 1000,
        description="Null space: directions with eigenvalues below threshold × mean eigenvalue.",
    )
    min_rank: Count = Field(100, description="Smallest allowed dimension of the null space.")
    positions: Literal["all", "from-concept"] = Field(
        "from-concept", description="Token positions whose outputs may change."
    )
    balance_empty: bool = Field(
        True, description="Count the empty prompt as often as all other preserve prompts together."
    )
    hold_earlier: bool = Field(
        True,
        description="If the model was edited before, keep the layers' outputs for the concept "
        "prompts of the edits in its ledger.",
    )


class RefineSettings(BaseModel):
    """Parameters of the descent that finds the target values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["joint", "sequential", "copy"] = Field(
        "joint",
        description="How V₁ is found: through the closed form at all sites together ('joint'), one "
        "site after the other ('sequential'), or copied from the target prompts ('copy').",
    )
    match: Literal["attention", "denoiser"] = Field(
        "attention",
        description="What the descent compares: what the denoiser's cross-attention reads, or the "
        "denoiser's predictions.",
    )
    steps: Count = Field(
        16,
        description="Joint: evaluations of the loss (the line search may add one). Sequential: "
        "descent steps per visit of a site.",
    )
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="Weight of the change-size penalty in the joint objective: loss = mismatch / "
        "initial mismatch + damping × (size of the change / `price`).",
    )
    price: Literal["outputs", "weight"] = Field(
        "outputs",
        description="What the size of a change is relative to: the weight and what it puts out for "
        "the prior's or, without one, the preserve prompts' tokens ('outputs'), so that damping "
        "means the same whatever the prior is; or the size of the weight in the penalty itself "
        "('weight', as before).",
    )
    epochs: Count = Field(1, description="Sequential: rounds over the sites.")
    lr: Positive = Field(0.2, description="Sequential: learning rate of Adam.")
    batch: Count = Field(
        16,
        description="Sequential: images per step. Joint: prompts or images at a time; larger "
        "values need more memory.",
    )
    pictures: Count = Field(
        64,
        description="Joint with match = 'denoiser': number of noisy images that are compared, "
        "rounded up to the same number for every prompt.",
    )
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (0, 1000), description="Range of timesteps, out of the model's 1000."
    )
    latent_steps: Count = Field(
        10, description="Sampler steps when the noisy images are generated."
    )
    guidance: Annotated[float, Field(ge=1)] = Field(
        3.0, description="Guidance when the noisy images are generated."
    )

    @model_validator(mode="after")
    def _range(self) -> RefineSettings:
        if self.timesteps[0] >= self.timesteps[1]:
            raise ValueError("timesteps must be [lower, upper] with lower < upper")
        return self


class ContextSettings(BaseModel):
    """Parameters of the cross-attention half."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Positive = Field(
        1e-2,
        description="Ridge λ, relative to the mean energy of the contexts that must stay. Larger "
        "values change the weights less.",
    )
    prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.5,
        description="Weight of the contexts of frequent vocabulary words beside those of the "
        "preserve prompts.",
    )
    edited: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.1,
        description="Weight of the contexts that the edited text encoder gives the concept "
        "prompts; with layers = 'both' they must stay.",
    )


class RobustSettings(BaseModel):
    """Parameters of the adversarial rounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rounds: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="Rounds of concept inversion against the edited model; contexts that it finds "
        "are forgotten too. They need layers = 'both' or 'cross-attention'.",
    )
    budget: Count = Field(
        250,
        description="Steps of one inversion. An attack that is weaker than the one to withstand "
        "finds nothing to withstand.",
    )
    max_drift: Positive = Field(
        0.05,
        description="What a round finds counts for only as much as leaves the predictions for "
        "preserve prompts within this, relative to the unedited model's.",
    )
    images: Count = Field(
        25, description="Images of each concept, generated by the unedited model, to invert."
    )
    batch: Count = Field(8, description="Images per step of an inversion.")
    guidance: Annotated[float, Field(ge=1)] = Field(
        4.5, description="Guidance when these images are generated."
    )
    finetune: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Steps of fine-tuning of the denoiser after the closed form, for each concept: "
        "at images of the concept, whatever prompt or learned word is read. 600 steps take minutes "
        "on a small model; docs/robustness.md says what they withstand.",
    )
    finetune_repeats: Annotated[int, Field(ge=0)] = Field(
        1,
        description="How often the steps are repeated, at most, for concepts that inversion still "
        "brings back after them.",
    )
    finetune_lr: Positive = Field(2e-4, description="Learning rate of Adam in the fine-tuning.")
    repel: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.5,
        description="Fine-tuning: how far images that look like the concept are led away from it, "
        "beyond the target.",
    )
    keep: Positive = Field(
        3.0, description="Fine-tuning: weight of the images of preserve prompts, which must stay."
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    refine: RefineSettings = RefineSettings()
    context: ContextSettings = ContextSettings()
    robust: RobustSettings = RobustSettings()

    @model_validator(mode="after")
    def _reachable(self) -> Parameters:
        robust = self.robust.rounds or self.robust.finetune
        if robust and self.edit.layers == "text-encoder":
            raise ValueError(
                "with [robust] rounds or finetune needs [edit] layers = 'both' or "
                "'cross-attention': an edit of the text encoder alone leaves the concept in the "
                "denoiser"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables: Any) -> Any:
        return filled(tables, "edit", {"reference": REFERENCE})


# With edits of the text encoder alone, the tables of the other half change nothing.
EARLIER = {
    "refine.price": "weight",
    "edit.layers": "text-encoder",
    **{f"context.{name}": value for name, value in ContextSettings().model_dump().items()},
    **{f"robust.{name}": value for name, value in RobustSettings().model_dump().items()},
    "robust.finetune_repeats": 0,
}

SEARCH = {
    "edit.lam": Range(1e-2, 30.0, log=True),
    "edit.prior": Range(0.1, 100.0, log=True),
    "edit.threshold": Range(1e-5, 3e-2, log=True),
    "edit.sites": Choice(((1, 2, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2), (3,))),
    "refine.steps": Range(8, 40),
    "refine.damping": Range(0.1, 10.0, log=True),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model."""
    layers = parameters.edit.layers
    first = Cost() if layers == "cross-attention" else _of_text_encoder(task, parameters)
    second = Cost() if layers == "text-encoder" else _of_cross_attention(task, parameters)
    return Cost(
        encoded=first.encoded + second.encoded,
        predictions=first.predictions + second.predictions,
        descents=first.descents + second.descents,
        batch=max(first.batch, second.batch),
        moments=first.moments,
    )


def _of_cross_attention(task: Task, parameters: Parameters) -> Cost:
    robust, context = parameters.robust, parameters.context
    encoded = len(task.preserve) + 3 * len(task.pairs) + (task.prior_size if context.prior else 0)
    if not robust.rounds and not robust.finetune:
        return Cost(encoded=encoded)
    concepts = max(len(task.concepts), 1)
    attacked = concepts * robust.rounds * robust.budget * robust.batch
    # 20 sampler steps for every image; guidance needs two predictions.
    images = 2 * 20 * concepts * robust.images if robust.rounds else 0
    if not robust.finetune:
        return Cost(
            encoded=encoded + 3 * attacked,
            predictions=images,
            descents=attacked,
            batch=robust.batch,
        )
    # Without repeats. Whether one is needed, an inversion of each concept says.
    steps = concepts * robust.finetune
    attacked += concepts * robust.budget * robust.batch if robust.finetune_repeats else 0
    pictures, kept = concepts * sizes.PICTURES, min(len(task.preserve), sizes.PRESERVED)
    # The teacher: target, concept and empty prompt at images of the concept, one prompt at others.
    requests = sizes.REPEATS * (3 * pictures + kept)
    return Cost(
        encoded=encoded + 3 * (attacked + sizes.WORDS * steps),
        predictions=images + 2 * 20 * (pictures + kept) + requests,
        descents=attacked + sizes.BATCH * steps,
        batch=max(robust.batch, sizes.BATCH),
    )


def _of_text_encoder(task: Task, parameters: Parameters) -> Cost:
    pairs, refine = len(task.pairs), parameters.refine
    moments = len(task.preserve) + (task.prior_size if parameters.edit.prior else 0)
    if refine.mode == "copy":
        return Cost(encoded=moments + 2 * pairs, moments=moments)
    joint = refine.mode == "joint"
    if joint:
        steps = refine.steps
        per_prompt = 1 if refine.match == "attention" else ceil(refine.pictures / pairs)
        compared = pairs * per_prompt  # in each step
    else:
        steps = refine.steps * refine.epochs * len(parameters.edit.sites)
        compared = refine.batch
    prompts = ceil(compared / refine.batch) * min(refine.batch, pairs)
    # Keys of the concept prompts before and after the edit, targets; a gradient costs twice as much
    # as the encoding.
    encoded = moments + 3 * pairs + 3 * steps * prompts
    if refine.match == "attention":
        return Cost(encoded=encoded, moments=moments)
    # Noisy images for concepts and targets; guidance needs two predictions.
    noisy_images = 2 * pairs * refine.latent_steps * 2
    return Cost(
        encoded=encoded,
        predictions=noisy_images + (compared if joint else steps * compared),
        descents=steps * compared,
        batch=min(refine.batch, compared),
        moments=moments,
    )
