"""Families whose transformer predicts the velocity ε − x₀ of flow matching, and attends to tokens
and image patches together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from forgetcli.checkpoint import pipeline_index
from forgetcli.models import components
from forgetcli.models.base import LoadedModel
from forgetcli.models.sites import Site


class FlowModel(LoadedModel):
    """Text encoders, a transformer, a VAE.

    These models have no cross-attention sites. If a transformer has an `attn2`, it attends only to
    image patches. Two embedders read the prompt: one its tokens, one its pooled embedding. Every
    other layer reads their outputs.

    Attributes:
        PATCH: the side of one of the transformer's patches, in latents.
    """

    DENOISER = "transformer"
    SCHEDULERS = pipeline_index.FLOW_SCHEDULERS
    PATCH = 2

    @cached_property
    def config(self) -> dict[str, Any]:
        """The transformer's settings. Its weights are not loaded."""
        return self._config("transformer")

    @property
    def embedders(self) -> Mapping[Literal["hidden", "pooled"], Site]:
        return {
            "hidden": self._denoiser_site("context_embedder"),
            "pooled": self._denoiser_site("time_text_embed.text_embedder.linear_1"),
        }

    def _denoiser_site(self, name: str) -> Site:
        return Site(self.DENOISER, name, self.denoiser.get_submodule(name))

    @property
    @abstractmethod
    def context_length(self) -> int:
        """The number of a prompt's tokens that the transformer reads."""

    @cached_property
    def scheduler(self) -> Any:
        # Families are listed without diffusers.
        from forgetcli.models.flow_sampler import FlowSampler

        self.refuse_scheduler()
        config = components.scheduler_settings(self.base)
        return components.part(self.base, "scheduler", lambda _: FlowSampler.from_config(config))

    def sampler(self, steps: int) -> Any:
        """An Euler sampler. Its timesteps depend on the image size if the config says so."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        mu = None
        if scheduler.config.use_dynamic_shifting:
            _, height, width = self.latent_shape
            mu = shift((height // self.PATCH) * (width // self.PATCH), scheduler.config)
        scheduler.set_timesteps(mu=mu, **self.times(steps))
        return scheduler

    def times(self, steps: int) -> dict[str, Any]:
        """Arguments of `set_timesteps`: the number of steps, or their σ before the shift."""
        return {"num_inference_steps": steps}


def shift(tokens: int, config: Any) -> float:
    """The shift μ of the timesteps: linear in the image's token count, through the config's two
    points.
    """
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    return config.base_shift + slope * (tokens - config.base_image_seq_len)
