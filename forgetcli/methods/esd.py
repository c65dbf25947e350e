"""ESD: the denoiser itself is fine-tuned, with its own negative guidance as the teacher.

Minimised is ‖ε_θ(x_t, c) − [ε(x_t, anchor) − η (ε(x_t, c) − ε(x_t, ∅))]‖² over θ, with the unedited
model on the right.
Gandikota et al., Erasing Concepts from Diffusion Models (arXiv 2303.07345).

The paper has concepts and no targets. With ``erase_from = "concept"`` the concept prompt is its own
anchor, as in the authors' current
code: η = 1 leads to the empty prompt's prediction, and their default η = 2 gives 2ε(∅) − ε(c),
which is the paper's equation for its
η = 1. With ``erase_from = "target"`` the anchor is the recipe's target, as for the other methods
here, and η goes on beyond it, away
from the concept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.progress import Observer
    from forgetcli.recipe import Recipe

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class TrainSettings(BaseModel):
    """The fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    train_method: Literal["esd-x", "esd-x-strict", "esd-u"] = Field(
        "esd-x",
        description="what is trained: the cross-attention, only its key and value layers, or all layers but the cross-attention",
    )
    erase_from: Literal["target", "concept"] = Field(
        "target",
        description="the anchor: the target's prediction, or, as published, the concept's own",
    )
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="η: negative guidance, how far away from the concept; published with erase_from = 'concept': 2",
    )
    steps: Count = Field(
        60, description="descent steps; published: 1000 at lr 1e-5, later 200 at 5e-5"
    )
    lr: Positive = Field(
        2e-4,
        description="Adam's rate; models of real size need a lower one: 1e-5 to 5e-5 for Stable Diffusion 1.4",
    )
    batch: Count = Field(8, description="pictures a step; published: 1")


class SampleSettings(BaseModel):
    """The noisy pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Literal["base", "edited"] = Field(
        "base",
        description="whose: the unedited model's, made once (the later code), or the edited one's, anew at each step (the paper)",
    )
    steps: Count = Field(10, description="sampler steps of a whole run; published: 50")
    guidance: Annotated[float, Field(ge=1)] = Field(3.0, description="guidance when they are made")


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()


SEARCH = {
    "train.train_method": Choice(("esd-x", "esd-x-strict", "esd-u")),
    "train.lr": Range(5e-5, 1e-3, log=True),
    "train.steps": Range(40, 200),
    "train.eta": Range(0.0, 2.0),
}


def edit(
    model, recipe: Recipe, parameters: Parameters, cache: MomentCache, observer: Observer
) -> Edit:
    """New weights of the denoiser, all concepts trained together. Preserve prompts play no part.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or the descent left the
            finite numbers.
    """
    from forgetcli.editing import finetuning
    from forgetcli.editing.edit import Edit, SiteReport
    from forgetcli.models.tensors import read_tensor

    changes, losses = finetuning.train(
        model, recipe.edit_pairs(), parameters, recipe.seed, observer
    )
    weights, reports = {}, []
    for parameter, change in changes.items():
        # Onto the file's own weights: the ones in memory are rounded to the dtype that the model
        # runs in.
        W = read_tensor(model.base.folder, model.base.locate("unet", parameter)[0]).double()
        delta = change.cpu().double()
        weights["unet", parameter] = W + delta
        reports.append(
            SiteReport(
                parameter.removesuffix(".weight"), float(delta.norm() / W.norm().clamp_min(1e-300))
            )
        )
    return Edit(weights, tuple(reports), tuple(losses))
