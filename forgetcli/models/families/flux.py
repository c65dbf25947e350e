"""FLUX.1: a T5 and a CLIP text encoder, a transformer trained by flow matching.

The denoiser reads T5's hidden states and CLIP's pooled embedding. The recipe setting [edit]
encoders = ["clip", "t5"] also edits T5. Guidance needs no second prediction, because the guidance
scale is an input of the distilled model (dev).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from forgetcli.models.base import Context, TextEncoder
from forgetcli.models.flow import FlowModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
GUIDANCE = 3.5
HALF = "bfloat16"
T5_LENGTH = 512  # tokens; the default of diffusers


class Flux(FlowModel):
    """A loaded FLUX.1 model."""

    ENCODERS = (
        TextEncoder(),
        TextEncoder(
            "text_encoder_2",
            "tokenizer_2",
            kind="t5",
            loader="T5EncoderModel",
            length=T5_LENGTH,
        ),
    )
    TEXT_TO_IMAGE = "FluxPipeline"
    DENOISER_CLASS = "FluxTransformer2DModel"

    @cached_property
    def transformer(self) -> Any:
        from diffusers import FluxTransformer2DModel

        return self._network("transformer", FluxTransformer2DModel)

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, 77 + 512) → context (n, 512, d)."""
        clip, t5 = self.encoders
        return Context(
            hidden=self.encoder_output(t5, ids).last_hidden_state,
            pooled=self.encoder_output(clip, ids).pooler_output,
        )

    @property
    def context_tokens(self) -> tuple[tuple[TextEncoder, int], ...]:
        """T5's tokens alone: of CLIP, the transformer reads no token."""
        _, t5 = self.encoders
        return ((t5, 0),)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        # Not from the transformer's config: the transformer accepts any size.
        size = self.vae_config["sample_size"] // self.vae_scale
        return (self.config["in_channels"] // self.PATCH**2, size, size)

    @property
    def context_length(self) -> int:
        return T5_LENGTH

    def times(self, steps: int) -> dict[str, Any]:
        return {"sigmas": [1 - step / steps for step in range(steps)]}

    def denoise(
        self, noisy: Tensor, t: Tensor, context: Context, guidance: float = GUIDANCE
    ) -> Tensor:
        """The velocity for noisy latents (n, c, h, w)."""
        import torch

        context = context.to(self.dtype)
        n, _, height, width = noisy.shape
        rows = height // self.PATCH
        columns = width // self.PATCH
        positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (patches, 2)
        # The transformer expects three coordinates; the first one is 0 for image patches.
        positions = torch.cat([torch.zeros(len(positions), 1), positions], 1).to(noisy)
        guidance_scale = None
        if self.transformer.config.guidance_embeds:
            guidance_scale = torch.full((n,), guidance, device=noisy.device)
        velocity = self.transformer(
            packed(noisy, self.PATCH),
            encoder_hidden_states=context.hidden,
            pooled_projections=context.pooled,
            timestep=t.expand(n).to(noisy) / self.scheduler.config.num_train_timesteps,
            guidance=guidance_scale,
            txt_ids=noisy.new_zeros(context.hidden.shape[1], 3),
            img_ids=positions,
        ).sample
        return unpacked(velocity, rows, columns, self.PATCH)

    def guided(
        self, noisy: Tensor, t: Tensor, context: Context, empty: Context, guidance: float
    ) -> Tensor:
        """One prediction; the guidance scale is an input of the transformer."""
        return self.denoise(noisy, t, context, guidance)


def packed(latents: Tensor, patch: int) -> Tensor:
    """Latents (n, c, h, w) → patches (n, h/p · w/p, c·p²)."""
    n, channels, height, width = latents.shape
    cut = latents.reshape(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(
        n, (height // patch) * (width // patch), channels * patch**2
    )


def unpacked(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """The inverse of `packed`."""
    n, _, width = patches.shape
    channels = width // patch**2
    cut = patches.reshape(n, rows, columns, channels, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, rows * patch, columns * patch)


def load(base: Base, device: torch.device, dtype: torch.dtype) -> Flux:
    return Flux(base, device, dtype)
