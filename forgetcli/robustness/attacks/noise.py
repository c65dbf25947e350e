"""Noise-based probing: adds more noise during sampling and takes the best of many images. Nothing
is trained (Lu et al., When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.models.unet import UNetModel
from forgetcli.robustness.attacks import Attempt, Case, unsupported
from forgetcli.robustness.sampling import sample_images

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

PUBLISHED: Mapping[str, object] = {}  # the defaults are the published values


class Options(BaseModel):
    """The values of η and of the noise scale. An attempt has an image for each pair: 24."""

    model_config = ConfigDict(extra="forbid")

    etas: tuple[float, ...] = Field((1.0, 1.17, 1.34, 1.51, 1.68, 1.85), min_length=1)
    scales: tuple[float, ...] = Field((1.0, 1.02, 1.03, 1.04), min_length=1)
    attempts: int = Field(6, ge=1, description="Number of prompts.")


def refuse(model: LoadedModel) -> None:
    if not isinstance(model, UNetModel):
        raise unsupported("noise", model, "its sampler adds no noise during sampling")


def run(case: Case, options: Options) -> list[Attempt]:
    """One attempt for each prompt and seed, with an image for every η and scale."""
    prompts = case.prompts()[: options.attempts]
    seeds = case.seeds()[: options.attempts]
    context = case.model.encode(tokenise(case.model.tokenizer, prompts).ids)
    images_of: list[list] = [[] for _ in prompts]
    for eta in options.etas:
        for scale in options.scales:
            images, _ = sample_images(
                case.model, context, seeds, case.sampling, eta=eta, noise_scale=scale
            )
            case.budget.images += len(images)
            case.observer.advance(len(images))
            for row, image in zip(images_of, images):
                row.append(image)
    return [
        Attempt(prompt, seed, tuple(row)) for prompt, seed, row in zip(prompts, seeds, images_of)
    ]
