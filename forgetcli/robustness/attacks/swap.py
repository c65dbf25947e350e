"""The base's text encoder in front of the edited denoiser: what a UI does that loads its own CLIP,
or a model-only LoRA loader.

A denoiser of the base in the place of the edited one would be another model, so it is not swapped.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.sampling import draw

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

PUBLISHED: dict[str, object] = {}


class Options(BaseModel):
    """This attack has no settings."""

    model_config = ConfigDict(extra="forbid")


def run(case: Case, options: Options) -> list[Attempt]:
    """Every text encoder in turn is the unedited model's."""
    attempts = []
    prompts, seeds = case.prompts(), case.seeds()
    ids = tokenise(case.model.tokenizer, prompts).ids
    for encoder in case.model.encoders:
        swapped = with_component(case.model, case.unedited, encoder.component)
        images, _ = draw(swapped, swapped.encode(ids), seeds, case.sampling)
        case.budget.images += len(images)
        case.observer.advance(len(images))
        attempts += [
            Attempt(prompt, seed, (image,), variant=encoder.component)
            for prompt, seed, image in zip(prompts, seeds, images)
        ]
    return attempts


def with_component(model: LoadedModel, donor: LoadedModel, component: str) -> LoadedModel:
    """The model with one component of the donor. Neither of the two changes."""
    swapped = copy.copy(model)
    swapped.__dict__[component] = getattr(donor, component)  # as its cached_property would
    return swapped
