"""Stable Diffusion XL, including in-painting variants: two CLIP text encoders, a UNet with
cross-attention, a VAE.

The denoiser reads the penultimate hidden states of both encoders, (n, 77, 768 + 1280), the pooled
and projected embedding of the second encoder, and six numbers: the image's size before cropping,
the position of the crop and the size after cropping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.models.base import Context, TextEncoder
from forgetcli.models.unet import UNetModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

PIPELINES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
GUIDANCE = 5.0
HALF = "float16"


class StableDiffusionXL(UNetModel):
    """A loaded Stable Diffusion XL model."""

    ENCODERS = (
        TextEncoder(unread=1),
        TextEncoder("text_encoder_2", "tokenizer_2", loader="CLIPTextModelWithProjection"),
    )
    TEXT_TO_IMAGE = "StableDiffusionXLPipeline"
    INPAINTING = "StableDiffusionXLInpaintPipeline"

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, length₁ + length₂) → context, d = d₁ + d₂."""
        import torch

        outputs = [
            self.encoder_output(encoder, ids, output_hidden_states=True)
            for encoder in self.encoders
        ]
        return Context(
            hidden=torch.cat([output.hidden_states[-2] for output in outputs], -1),
            pooled=outputs[-1].text_embeds,
        )

    def unconditional(self) -> Context:
        """The encoded empty prompt, or zeros if the model was trained with zeros (as SDXL base)."""
        import torch

        empty = super().unconditional()
        if self.index.settings.get("force_zeros_for_empty_prompt", True):
            return Context(
                torch.zeros_like(empty.hidden), torch.zeros_like(empty.pooled_embeddings)
            )
        return empty

    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """ε or v, as the model was trained, for noisy latents (n, c, h, w) of uncropped images."""
        height, width = (side * self.vae_scale for side in noisy.shape[-2:])
        context = context.to(self.dtype)
        pooled = context.pooled_embeddings
        sizes = pooled.new_tensor([height, width, 0, 0, height, width])
        conditions = {"text_embeds": pooled, "time_ids": sizes.repeat(len(noisy), 1)}
        return self.unet(
            self.with_mask(noisy),
            t,
            encoder_hidden_states=context.hidden,
            added_cond_kwargs=conditions,
        ).sample


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusionXL:
    return StableDiffusionXL(base, device, dtype)
