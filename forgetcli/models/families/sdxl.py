"""Stable Diffusion XL, in-painting variants included: two CLIP text encoders side by side, and the
second one's summary.

The denoiser reads the last hidden states but one of both encoders, (n, 77, 768 + 1280), the second
encoder's projected summary
and six numbers: the picture's size before and after cropping, and where it was cropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.models.base import Context, TextEncoder
from forgetcli.models.unet import UNetModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline")
GUIDANCE = 5.0


class StableDiffusionXL(UNetModel):
    """A loaded model."""

    ENCODERS = (
        TextEncoder(unread=1),
        TextEncoder("text_encoder_2", "tokenizer_2", loader="CLIPTextModelWithProjection"),
    )

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, length₁ + length₂) → context, d = d₁ + d₂."""
        import torch

        outputs = [self.read(encoder, ids, output_hidden_states=True) for encoder in self.encoders]
        return Context(
            torch.cat([out.hidden_states[-2] for out in outputs], -1), outputs[-1].text_embeds
        )

    def unconditional(self) -> Context:
        """The empty prompt, or zeros where the model was trained so (the base model is)."""
        import torch

        empty = super().unconditional()
        if self.index.get("force_zeros_for_empty_prompt", True):
            return Context(torch.zeros_like(empty.hidden), torch.zeros_like(empty.pooled))
        return empty

    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """The denoiser's raw prediction (ε or v, as it was trained) for noisy latents (n, c, h, w)
        of uncropped pictures.
        """
        height, width = (side * self.vae_scale for side in noisy.shape[-2:])
        sizes = context.pooled.new_tensor([height, width, 0, 0, height, width])
        more = {"text_embeds": context.pooled, "time_ids": sizes.repeat(len(noisy), 1)}
        return self.unet(
            self.with_mask(noisy), t, encoder_hidden_states=context.hidden, added_cond_kwargs=more
        ).sample


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusionXL:
    return StableDiffusionXL(base, device, dtype)
