"""Stable Diffusion 3 and 3.5: two CLIP text encoders, T5 (optional), a transformer trained by flow
matching.

The transformer reads the penultimate hidden states of both CLIP encoders, concatenated along the
width and padded with zeros to T5's width, followed by T5's hidden states. It also reads the pooled
embeddings of both CLIP encoders.
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

PIPELINES = (
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
)
GUIDANCE = 7.0
HALF = "bfloat16"
T5_LENGTH = 256  # tokens; the default of diffusers


class StableDiffusion3(FlowModel):
    """A loaded Stable Diffusion 3 model."""

    ENCODERS = (
        TextEncoder(loader="CLIPTextModelWithProjection"),
        TextEncoder("text_encoder_2", "tokenizer_2", loader="CLIPTextModelWithProjection"),
        TextEncoder(
            "text_encoder_3",
            "tokenizer_3",
            kind="t5",
            loader="T5EncoderModel",
            length=T5_LENGTH,
            optional=True,
        ),
    )
    TEXT_TO_IMAGE = "StableDiffusion3Pipeline"
    DENOISER_CLASS = "SD3Transformer2DModel"
    EXPANDS = False

    @cached_property
    def transformer(self) -> Any:
        from diffusers import SD3Transformer2DModel

        return self._network("transformer", SD3Transformer2DModel)

    def encode(self, ids: Tensor) -> Context:
        """Token ids (n, 77 + 77 + 256) → context (n, 77 + 256, d).

        If the model has no T5, zeros replace its hidden states.
        """
        import torch
        from torch.nn.functional import pad

        clip = [
            self.encoder_output(encoder, ids, output_hidden_states=True)
            for encoder in self.encoders
            if encoder.kind == "clip"
        ]
        width = self.transformer.config.joint_attention_dim
        hidden = torch.cat([output.hidden_states[-2] for output in clip], -1)
        hidden = pad(hidden, (0, width))[..., :width]
        t5 = [
            self.encoder_output(encoder, ids).last_hidden_state
            for encoder in self.encoders
            if encoder.kind == "t5"
        ]
        if not t5:
            t5 = [hidden.new_zeros(len(ids), T5_LENGTH, width)]
        return Context(
            hidden=torch.cat([hidden, *t5], 1),
            pooled=torch.cat([output.text_embeds for output in clip], -1),
        )

    @property
    def context_tokens(self) -> tuple[tuple[TextEncoder, int], ...]:
        """CLIP's, then T5's. Without T5, zeros stand there, which no layer's weight acts upon."""
        clip, *_ = self.encoders
        t5 = [encoder for encoder in self.encoders if encoder.kind == "t5"]
        return ((clip, 0), *((encoder, self.positions(clip.component)) for encoder in t5))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.config["sample_size"]
        return (self.config["in_channels"], size, size)

    @property
    def context_length(self) -> int:
        # The states of both CLIP encoders are concatenated along the width, not the length.
        return self.positions("text_encoder") + T5_LENGTH

    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """The velocity for noisy latents (n, c, h, w)."""
        context = context.to(self.dtype)
        return self.transformer(
            noisy,
            encoder_hidden_states=context.hidden,
            pooled_projections=context.pooled,
            timestep=t.expand(len(noisy)).to(noisy),
        ).sample


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusion3:
    return StableDiffusion3(base, device, dtype)
