"""Noisy pictures from the model's own sampler: where the denoiser is asked what it makes of a
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer


@dataclass(frozen=True)
class NoisyBank:
    """x_t on the way from noise to a picture.

    Attributes:
        latents: shape (prompts, steps, c, h, w).
        timesteps: shape (steps,), descending; int64, but for flow matching.
        finished: the pictures themselves, shape (prompts, c, h, w).
        scheduler: adds noise to them for timesteps that the sampler did not stop at.
    """

    latents: Tensor
    timesteps: Tensor
    finished: Tensor
    scheduler: object

    def draw(
        self, rows: Tensor, timesteps: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One x_t for each row, (n, c, h, w), and its t, (n,): at a random step of the sampler
        within the range.

        If the sampler has no step there (the reference's 10…50 of 1000, with 10 steps), t is drawn
        from the range and the
        finished picture is noised to it.
        """
        low, high = timesteps
        inside = ((self.timesteps >= low) & (self.timesteps <= high)).nonzero().flatten()
        if len(inside) == 0:
            t = torch.randint(
                low,
                min(high, self.scheduler.config.num_train_timesteps - 1) + 1,
                (len(rows),),
                generator=generator,
            )
            clean = self.finished[rows]
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            return self.scheduler.add_noise(clean, noise, t.to(clean.device)), t
        step = inside[torch.randint(len(inside), (len(rows),), generator=generator)]
        return self.latents[rows, step], self.timesteps[step]


@torch.no_grad()
def noisy_bank(
    model,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    observer: Observer,
    batch: int = 16,
) -> NoisyBank:
    """Run the unedited model's sampler on each prompt and keep every x_t that the denoiser saw.

    Noise is drawn on the CPU, so that the same seed gives the same pictures on every device.
    """
    tokens = tokenise(model.tokenizer, prompts)
    empty = model.unconditional()
    observer.stage("noisy pictures", len(prompts))
    kept, finished = [], []
    for part in tokens.split(batch):
        n = len(part.prompts)
        context = model.encode(part.ids)
        x = torch.randn((n, *model.latent_shape), generator=generator).to(model.device, model.dtype)
        path = []
        scheduler = model.sampler(steps)  # some count their steps
        for t in scheduler.timesteps:
            path.append(x)
            x = scheduler.step(model.guided(x, t, context, empty, guidance), t, x).prev_sample
        kept.append(torch.stack(path, 1))  # (n, steps, c, h, w)
        finished.append(x)
        observer.advance(n)
    return NoisyBank(torch.cat(kept), scheduler.timesteps.cpu(), torch.cat(finished), scheduler)
