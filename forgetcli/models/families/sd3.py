"""Stable Diffusion 3 and 3.5: two CLIP text encoders, T5 (which copies may leave out), a
transformer, flow matching.

The transformer reads the CLIP encoders' last hidden states but one, side by side, with zeros up to
T5's width, after them
T5's states, and the summaries of both CLIP encoders.
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

PIPELINES = ("StableDiffusion3Pipeline",)
GUIDANCE = 7.0
T5_LENGTH = 256  # what diffusers has T5 read, if nothing else is said


class StableDiffusion3(FlowModel):
    """A loaded model."""

    ENCODERS = (
        TextEncoder(loader="CLIPTextModelWithProjection"),
        TextEncoder("text_encoder_2", "tokenizer_2", loader="CLIPTextModelWithProjection"),
        TextEncoder("text_encoder_3", "tokenizer_3", "t5", "T5EncoderModel", T5_LENGTH),
    )

    @cached_property
    def transformer(self):
        from diffusers import SD3Transformer2DModel

        return self._network("transformer", SD3Transformer2DModel)

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, 77 + 77 + 256) → context (n, 77 + 256, d); without T5, zeros are in its
        place.
        """
        import torch
        from torch.nn.functional import pad

        clip = [
            self.read(encoder, ids, output_hidden_states=True)
            for encoder in self.encoders
            if encoder.kind == "clip"
        ]
        width = self.transformer.config.joint_attention_dim
        hidden = pad(torch.cat([out.hidden_states[-2] for out in clip], -1), (0, width))[
            ..., :width
        ]
        t5 = [
            self.read(encoder, ids).last_hidden_state
            for encoder in self.encoders
            if encoder.kind == "t5"
        ]
        t5 = t5 or [hidden.new_zeros(len(ids), T5_LENGTH, width)]
        return Context(
            torch.cat([hidden, *t5], 1), torch.cat([out.text_embeds for out in clip], -1)
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.config["sample_size"]
        return (self.config["in_channels"], size, size)

    @property
    def context_length(self) -> int:
        from forgetcli.pipeline.flops import positions

        return (
            positions(self, "text_encoder") + T5_LENGTH
        )  # both CLIP encoders' states lie side by side

    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """The velocity for noisy latents (n, c, h, w)."""
        return self.transformer(
            noisy,
            encoder_hidden_states=context.hidden,
            pooled_projections=context.pooled,
            timestep=t.expand(len(noisy)).to(noisy),
        ).sample


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusion3:
    return StableDiffusion3(base, device, dtype)
