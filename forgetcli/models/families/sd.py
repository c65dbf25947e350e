"""Stable Diffusion 1.x and 2.x, including in-painting variants: one CLIP text encoder, a UNet with
cross-attention, a VAE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.models.base import Context
from forgetcli.models.unet import UNetModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)
GUIDANCE = 7.5
HALF = "float16"


class StableDiffusion(UNetModel):
    """A loaded Stable Diffusion 1.x or 2.x model."""

    TEXT_TO_IMAGE = "StableDiffusionPipeline"
    INPAINTING = "StableDiffusionInpaintPipeline"
    MASKS = True

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, length) → context (n, length, d)."""
        return Context(self.encoder_output(self.encoders[0], ids).last_hidden_state)

    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """ε or v, as the model was trained, for noisy latents (n, c, h, w)."""
        hidden = context.hidden.to(self.dtype)
        return self.unet(self.with_mask(noisy), t, encoder_hidden_states=hidden).sample


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    return StableDiffusion(base, device, dtype)
