"""Generates images from contexts.

`forgetcli.generation` generates them from prompts, with diffusers' pipelines. Attacks also change
the context and the sampling steps, so they need a sampler of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Sampling:
    """The sampler's settings.

    Attributes:
        steps: the number of sampling steps.
        guidance: the scale of classifier-free guidance.
        batch: images generated at a time.
    """

    steps: int
    guidance: float
    batch: int


@dataclass(frozen=True)
class Early:
    """Another model that makes the first sampling steps.

    Attributes:
        model: a model with the same latent space and noise schedule.
        context: the context of this model's denoiser, one row for each image.
        steps: the number of steps that this model makes.
    """

    model: LoadedModel
    context: Context
    steps: int


@torch.no_grad()
def sample_images(
    model: LoadedModel,
    context: Context,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    eta: float = 0.0,
    noise_scale: float = 1.0,
    early: Early | None = None,
) -> tuple[list[Image], Tensor]:
    """Generate an image for each row of `context`.

    At η = 0, an image depends on its context and seed in the same way as in diffusers' pipelines:
    each image's noise comes from its own generator on the CPU.

    Args:
        seeds: the seed of the initial noise for each row.
        eta: η of DDIM (arXiv 2010.02502, equation 16). 0 adds no noise during sampling, 1 adds as
            much as DDPM.
        noise_scale: a factor on the noise that η adds.
        early: another model that makes the first steps.
    Returns:
        the images, and their latents (n, c, h, w).
    """
    images: list[Image] = []
    finished = []
    for start in range(0, len(seeds), sampling.batch):
        rows = slice(start, start + sampling.batch)
        part = None if early is None else Early(early.model, early.context[rows], early.steps)
        latents = _denoised(
            model,
            context[rows],
            seeds[rows],
            sampling,
            eta=eta,
            noise_scale=noise_scale,
            early=part,
        )
        images += decoded(model, latents)
        finished.append(latents)
    return images, torch.cat(finished)


def _denoised(
    model: LoadedModel,
    context: Context,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    eta: float,
    noise_scale: float,
    early: Early | None,
) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = _noise(model, generators)
    scheduler = model.sampler(sampling.steps)
    empty = model.unconditional()
    early_empty = early.model.unconditional() if early else None
    for number, t in enumerate(scheduler.timesteps):
        if early is not None and early_empty is not None and number < early.steps:
            prediction = early.model.guided(x, t, early.context, early_empty, sampling.guidance)
        else:
            prediction = model.guided(x, t, context, empty, sampling.guidance)
        added: dict[str, Any] = {}
        if eta:
            added = {
                "eta": min(eta, _largest_eta(scheduler, t)),
                "variance_noise": noise_scale * _noise(model, generators),
            }
        x = scheduler.step(prediction, t, x, **added).prev_sample
    return x


def _largest_eta(scheduler: Any, t: Tensor) -> float:
    """The largest η of a DDIM step, at which the step replaces all noise by new noise.

    There σ_t² = 1 − ᾱ, with ᾱ at the end of the step. A larger η would make the factor of the
    direction to x_t imaginary.
    """
    config = scheduler.config
    end = int(t) - config.num_train_timesteps // scheduler.num_inference_steps
    alphas = scheduler.alphas_cumprod
    at_end = float(alphas[end]) if end >= 0 else float(scheduler.final_alpha_cumprod)
    at_start = float(alphas[int(t)])
    variance = (1 - at_end) / (1 - at_start) * (1 - at_start / at_end)  # equation 16 with η = 1
    # Slightly less than the limit, because rounding must not make the root's argument negative.
    return (1 - 1e-4) * ((1 - at_end) / variance) ** 0.5 if variance > 0 else 1.0


def _noise(model: LoadedModel, generators: Sequence[torch.Generator]) -> Tensor:
    rows = [torch.randn((1, *model.latent_shape), generator=each) for each in generators]
    return torch.cat(rows).to(model.device, model.dtype)


@torch.no_grad()
def decoded(model: LoadedModel, latents: Tensor) -> list[Image]:
    """Decode latents (n, c, h, w) into images."""
    from PIL import Image

    config = model.vae.config
    shift = config.get("shift_factor") or 0.0
    pixels = model.vae.decode((latents / config.scaling_factor + shift).to(model.vae.dtype)).sample
    rows = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(row.permute(1, 2, 0).cpu().numpy()) for row in rows]
