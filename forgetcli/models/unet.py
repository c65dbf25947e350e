"""Families with a UNet that predicts ε or v: its cross-attention, a DDIM sampler, and in-painting
variants.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from forgetcli.errors import ModelError
from forgetcli.models.base import LoadedModel, Site

if TYPE_CHECKING:
    from torch import Tensor


class UNetModel(LoadedModel):
    """A text encoder or two, a UNet with cross-attention, a VAE."""

    @cached_property
    def unet(self):
        from diffusers import UNet2DConditionModel

        return self._network("unet", UNet2DConditionModel)

    @cached_property
    def scheduler(self):
        from diffusers import DDIMScheduler

        # Configurations of other schedulers do not say clip_sample, and DDIM would cut latents to
        # −1…1.
        return self._component(
            "scheduler", lambda folder: DDIMScheduler.from_pretrained(folder, clip_sample=False)
        )

    def sampler(self, steps: int):
        """DDIM, whatever the model's own scheduler: it reads x_t unscaled, and starts from unit
        noise.
        """
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler

    @cached_property
    def cross_attention(self) -> dict[str, Site]:
        """The denoiser's layers that read the context, `to_k` and `to_v` of every cross-attention,
        by name.
        """
        import torch

        return {
            name: Site("unet", name, module)
            for name, module in self.unet.named_modules()
            if isinstance(module, torch.nn.Linear) and name.endswith((".attn2.to_k", ".attn2.to_v"))
        }

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return (
            self.unet.config.out_channels,
            size,
            size,
        )  # an in-painting UNet reads more channels than these

    def with_mask(self, noisy: Tensor) -> Tensor:
        """x_t as the UNet reads it: an in-painting one with a mask over the whole picture, and
        latents of what it leaves.

        Raises:
            ModelError: it reads something else besides.
        """
        import torch

        missing = self.unet.config.in_channels - noisy.shape[1]
        if not missing:
            return noisy
        n, channels, height, width = noisy.shape
        if missing != channels + 1:
            raise ModelError(
                "model.unknown-family",
                f"the UNet of {self.base.id} reads {missing} unknown channels",
                "forget edits text-to-image and in-painting models",
            )
        return torch.cat(
            [
                noisy,
                noisy.new_ones(n, 1, height, width),
                self._blank.to(noisy).expand(n, -1, -1, -1),
            ],
            1,
        )

    @cached_property
    def _blank(self) -> Tensor:
        """Latents of the grey that in-painting pipelines put where the mask is, shape (1, c, h, w)."""
        import torch
        from diffusers import AutoencoderKL

        _, height, width = self.latent_shape
        vae = self._network("vae", AutoencoderKL, torch.float32)  # some overflow in float16
        with torch.no_grad():
            grey = torch.zeros(
                1, 3, height * self.vae_scale, width * self.vae_scale, device=self.device
            )
            return vae.encode(grey).latent_dist.mode() * vae.config.scaling_factor
