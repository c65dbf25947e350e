"""Families whose transformer predicts the velocity ε − x₀ of flow matching, and attends to tokens
and picture together.
"""

from __future__ import annotations

import json
from functools import cached_property

from forgetcli.models.base import LoadedModel


class FlowModel(LoadedModel):
    """Text encoders, a transformer, a VAE. No cross-attention: an `attn2`, where there is one, is
    of the picture alone.
    """

    DENOISER = "transformer"
    PATCH = 2  # latents a side of the transformer's patches

    @cached_property
    def config(self) -> dict:
        """The transformer's settings, without its weights."""
        return self._component(
            "transformer",
            lambda folder: json.loads((folder / "config.json").read_text(encoding="utf-8")),
        )

    @property
    def context_length(self) -> int:
        """Tokens of a prompt that the transformer reads."""
        raise NotImplementedError

    @cached_property
    def scheduler(self):
        from forgetcli.models.flow_sampler import FlowSampler

        return self._component("scheduler", FlowSampler.from_pretrained)

    def sampler(self, steps: int):
        """Euler's method, its times shifted for pictures of this size where the model wants that."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        mu = None
        if scheduler.config.use_dynamic_shifting:
            _, height, width = self.latent_shape
            mu = shift((height // self.PATCH) * (width // self.PATCH), scheduler.config)
        scheduler.set_timesteps(mu=mu, **self.times(steps))
        return scheduler

    def times(self, steps: int) -> dict:
        """What the sampler is told about its steps: their number, or their σ before the shift."""
        return {"num_inference_steps": steps}


def shift(tokens: int, config) -> float:
    """μ, linear in the number of a picture's tokens, through the two points that the configuration
    names.
    """
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    return config.base_shift + slope * (tokens - config.base_image_seq_len)
