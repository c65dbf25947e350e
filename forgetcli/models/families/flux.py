"""FLUX.1: T5's states as the context, the summary of a CLIP text encoder, and a transformer trained
by flow matching.

Of CLIP the denoiser reads the summary alone. Its tokens' states are T5's, which is edited with
[edit] encoders = ["clip", "t5"].
Guidance is not taken from a second prediction: it is a number that the distilled model (dev) reads.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from forgetcli.models.base import Context, TextEncoder
from forgetcli.models.flow import FlowModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

PIPELINES = ("FluxPipeline",)
GUIDANCE = 3.5


class Flux(FlowModel):
    """A loaded model."""

    ENCODERS = (
        TextEncoder(),
        TextEncoder("text_encoder_2", "tokenizer_2", "t5", "T5EncoderModel", 512),
    )

    @cached_property
    def transformer(self):
        from diffusers import FluxTransformer2DModel

        return self._network("transformer", FluxTransformer2DModel)

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, 77 + 512) → context (n, 512, d)."""
        clip, t5 = self.encoders
        return Context(self.read(t5, ids).last_hidden_state, self.read(clip, ids).pooler_output)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.vae_config["sample_size"] // self.vae_scale  # the transformer takes any
        return (self.config["in_channels"] // self.PATCH**2, size, size)

    @property
    def context_length(self) -> int:
        return self.ENCODERS[1].length

    def times(self, steps: int) -> dict:
        return {"sigmas": [1 - step / steps for step in range(steps)]}

    def denoise(
        self, noisy: Tensor, t: Tensor, context: Context, guidance: float = GUIDANCE
    ) -> Tensor:
        """The velocity for noisy latents (n, c, h, w)."""
        import torch

        n, _, height, width = noisy.shape
        rows, columns = height // self.PATCH, width // self.PATCH
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (patches, 2)
        places = torch.cat([torch.zeros(len(places), 1), places], 1).to(noisy)  # (patches, 3)
        strength = (
            torch.full((n,), guidance, device=noisy.device)
            if self.transformer.config.guidance_embeds
            else None
        )
        found = self.transformer(
            packed(noisy, self.PATCH),
            encoder_hidden_states=context.hidden,
            pooled_projections=context.pooled,
            timestep=t.expand(n).to(noisy) / self.scheduler.config.num_train_timesteps,
            guidance=strength,
            txt_ids=noisy.new_zeros(context.hidden.shape[1], 3),
            img_ids=places,
        ).sample
        return unpacked(found, rows, columns, self.PATCH)

    def guided(
        self, noisy: Tensor, t: Tensor, context: Context, empty: Context, guidance: float
    ) -> Tensor:
        return self.denoise(noisy, t, context, guidance)


def packed(latents: Tensor, patch: int) -> Tensor:
    """Latents (n, c, h, w) → patches (n, h/p · w/p, c·p²)."""
    n, channels, height, width = latents.shape
    cut = latents.reshape(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(
        n, (height // patch) * (width // patch), channels * patch**2
    )


def unpacked(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """`packed` undone."""
    n, _, wide = patches.shape
    channels = wide // patch**2
    cut = patches.reshape(n, rows, columns, channels, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, rows * patch, columns * patch)


def load(base: Base, device: torch.device, dtype: torch.dtype) -> Flux:
    return Flux(base, device, dtype)
