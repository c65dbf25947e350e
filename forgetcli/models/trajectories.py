"""Noisy latents from the model's own sampling trajectories. Losses compare denoiser predictions at
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer


@dataclass(frozen=True)
class NoisyBank:
    """The x_t of sampled trajectories, one trajectory per prompt.

    Attributes:
        latents: x_t at every step of the sampler, shape (prompts, steps, c, h, w).
        timesteps: shape (steps,), descending; int64 except in flow matching.
        finished: the denoised latents, shape (prompts, c, h, w).
        scheduler: diffusers' scheduler. It adds noise to `finished` for timesteps between the
            sampler's steps.
    """

    latents: Tensor
    timesteps: Tensor
    finished: Tensor
    scheduler: Any

    def sample(
        self, rows: Tensor, timesteps: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A random x_t of each row's trajectory, (n, c, h, w), and its t, (n,).

        t is a step of the sampler within the range `timesteps`, both ends included. If the sampler
        has no step within the range (10…50 of 1000 with 10 steps), t is any time of the range, and
        noise is added to the finished latents.
        """
        low, high = timesteps
        inside = ((self.timesteps >= low) & (self.timesteps <= high)).nonzero().flatten()
        if len(inside) == 0:
            last = min(high, self.scheduler.config.num_train_timesteps - 1)
            t = torch.randint(low, last + 1, (len(rows),), generator=generator)
            clean = self.finished[rows]
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            return self.scheduler.add_noise(clean, noise, t.to(clean.device)), t
        step = inside[torch.randint(len(inside), (len(rows),), generator=generator)]
        return self.latents[rows, step], self.timesteps[step]


@torch.no_grad()
def noisy_points(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    steps: int,
    largest_side: int,
    generator: torch.Generator,
    observer: Observer,
    batch: int = 16,
) -> tuple[Tensor, Tensor]:
    """One x_t of each prompt's trajectory without guidance, (n, c, h, w), and its t, (n,), at a
    random step of the sampler.

    A trajectory is followed no further than to its x_t: to half of its steps on average.

    Args:
        largest_side: limit of the latents' height and width.
        generator: of the noise and of the steps, on the CPU.
        batch: prompts sampled at a time.
    """
    ids = tokenise(model.tokenizer, prompts).ids
    channels, *sides = model.latent_shape
    shape = (channels, *(min(side, largest_side) for side in sides))
    noise = torch.randn((len(prompts), *shape), generator=generator)
    times = model.sampler(steps).timesteps.cpu()
    last = torch.randint(len(times), (len(prompts),), generator=generator)
    points = torch.empty_like(noise, dtype=model.dtype)
    observer.stage("noisy latents", len(prompts))
    # The longest first, so that those that are still running are the first rows of their batch.
    for rows in last.argsort(descending=True, stable=True).split(batch):
        observer.advance(len(rows))
        x = noise[rows].to(model.device, model.dtype)
        context = model.encode(ids[rows])
        scheduler = model.sampler(steps)  # a new one for each batch: some count their steps
        for step, t in enumerate(scheduler.timesteps):
            here = last[rows] == step
            points[rows[here]] = x[here.to(x.device)].cpu()
            running = int((last[rows] > step).sum())
            if not running:
                break
            rows, x, context = rows[:running], x[:running], context[:running]
            prediction = model.guided(x, t, context, context, 1.0)
            x = scheduler.step(prediction, t, x).prev_sample
    return points.to(model.device), times[last]


@torch.no_grad()
def noisy_bank(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    observer: Observer,
    batch: int = 16,
) -> NoisyBank:
    """Sample an image for each prompt and keep every x_t that the denoiser read.

    Args:
        guidance: the scale of classifier-free guidance.
        generator: for the initial noise. It is on the CPU, so that the same seed gives the same
            noise on every device.
        batch: prompts sampled at a time.
    """
    tokens = tokenise(model.tokenizer, prompts)
    empty = model.unconditional()
    observer.stage("noisy latents", len(prompts))
    latents: list[Tensor] = []
    finished: list[Tensor] = []
    for part in tokens.split(batch):
        n = len(part.prompts)
        context = model.encode(part.ids)
        x = torch.randn((n, *model.latent_shape), generator=generator).to(model.device, model.dtype)
        path = []
        # A new sampler for each batch, because some samplers count their steps.
        scheduler = model.sampler(steps)
        for t in scheduler.timesteps:
            path.append(x)
            x = scheduler.step(model.guided(x, t, context, empty, guidance), t, x).prev_sample
        latents.append(torch.stack(path, 1))  # (n, steps, c, h, w)
        finished.append(x)
        observer.advance(n)
    return NoisyBank(
        latents=torch.cat(latents),
        timesteps=scheduler.timesteps.cpu(),
        finished=torch.cat(finished),
        scheduler=scheduler,
    )
