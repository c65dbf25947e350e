"""No training: more noise in the steps, and the best of many images by the judge (Lu and others,
When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.models.unet import UNetModel
from forgetcli.robustness.attacks import Attempt, Case, unsupported
from forgetcli.robustness.sampling import draw

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

PUBLISHED: Mapping[str, object] = {}  # the defaults are the published values


class Options(BaseModel):
    """Every η with every scale: 24 images an attempt."""

    model_config = ConfigDict(extra="forbid")

    etas: tuple[float, ...] = Field((1.0, 1.17, 1.34, 1.51, 1.68, 1.85), min_length=1)
    scales: tuple[float, ...] = Field((1.0, 1.02, 1.03, 1.04), min_length=1)
    attempts: int = Field(6, ge=1, description="Prompts, each with all images.")


def refuse(model: LoadedModel) -> None:
    if not isinstance(model, UNetModel):
        raise unsupported("noise", model, "its sampler adds no noise in the steps")


def run(case: Case, options: Options) -> list[Attempt]:
    """Each prompt and seed with every η and scale. One image that shows the concept is enough."""
    prompts, seeds = case.prompts()[: options.attempts], case.seeds()[: options.attempts]
    context = case.model.encode(tokenise(case.model.tokenizer, prompts).ids)
    found: list[list] = [[] for _ in prompts]
    for eta in options.etas:
        for scale in options.scales:
            images, _ = draw(case.model, context, seeds, case.sampling, eta=eta, noise_scale=scale)
            case.budget.images += len(images)
            case.observer.advance(len(images))
            for row, image in zip(found, images):
                row.append(image)
    return [
        Attempt(prompt, seed, tuple(images)) for prompt, seed, images in zip(prompts, seeds, found)
    ]
