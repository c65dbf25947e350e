"""Encoder swap: the base model's text encoder with the edited denoiser, as in a UI that loads its
own CLIP or has a model-only LoRA loader.

The denoiser is not swapped: with the base model's denoiser it would no longer be the edited model.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.sampling import sample_images

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

PUBLISHED: dict[str, object] = {}


class Options(BaseModel):
    """This attack has no settings."""

    model_config = ConfigDict(extra="forbid")


def run(case: Case, options: Options) -> list[Attempt]:
    """One variant for each text encoder that is replaced by the unedited model's."""
    attempts = []
    prompts = case.prompts()
    seeds = case.seeds()
    ids = tokenise(case.model.tokenizer, prompts).ids
    for encoder in case.model.encoders:
        swapped = with_component(case.model, case.unedited, encoder.component)
        images, _ = sample_images(swapped, swapped.encode(ids), seeds, case.sampling)
        case.budget.images += len(images)
        case.observer.advance(len(images))
        attempts += [
            Attempt(prompt, seed, (image,), variant=encoder.component)
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts


def with_component(model: LoadedModel, donor: LoadedModel, component: str) -> LoadedModel:
    """A copy of the model with one component of the donor. Neither of the two models changes."""
    swapped = copy.copy(model)
    # Where the model's cached_property keeps its value.
    swapped.__dict__[component] = getattr(donor, component)
    return swapped
