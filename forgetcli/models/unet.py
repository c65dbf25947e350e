"""Families with a UNet that predicts ε or v: cross-attention sites, a DDIM sampler, in-painting
variants.

torch and diffusers are imported inside functions, because families are listed without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from forgetcli.errors import ModelError
from forgetcli.models import components
from forgetcli.models.base import LoadedModel
from forgetcli.models.sites import Site

if TYPE_CHECKING:
    from torch import Tensor


# The kinds of UNet output that DDIM supports.
PREDICTIONS = ("epsilon", "sample", "v_prediction")


class UNetModel(LoadedModel):
    """One or two text encoders, a UNet with cross-attention, a VAE."""

    @cached_property
    def unet(self) -> Any:
        from diffusers import UNet2DConditionModel

        return self._network("unet", UNet2DConditionModel)

    @cached_property
    def scheduler(self) -> Any:
        from diffusers import DDIMScheduler

        self.refuse_scheduler()
        config = components.scheduler_settings(self.base)
        # The configs of other schedulers lack clip_sample. By default DDIM would clip the latents
        # to −1…1.
        return components.part(
            self.base, "scheduler", lambda _: DDIMScheduler.from_config(config, clip_sample=False)
        )

    def unsupported_noise(self, config: Mapping[str, Any]) -> str:
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            return f"its prediction_type is {prediction!r}"
        if config.get("timestep_type", "discrete") != "discrete":
            return f"its timestep_type is {config['timestep_type']!r}"
        return "it has flow sigmas" if config.get("use_flow_sigmas") else ""

    def sampler(self, steps: int) -> Any:
        """A DDIM sampler, even if the model has another scheduler: DDIM does not scale x_t and
        starts from unit noise.
        """
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler

    @cached_property
    def cross_attention(self) -> dict[str, Site]:
        """`to_k` and `to_v` of every cross-attention layer, by name."""
        import torch

        return {
            name: Site("unet", name, module)
            for name, module in self.unet.named_modules()
            if isinstance(module, torch.nn.Linear) and name.endswith((".attn2.to_k", ".attn2.to_v"))
        }

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        # Not in_channels: an in-painting UNet also reads a mask and the masked image.
        config = self.unet.config
        return (config.out_channels, *sides(config.sample_size))

    def with_mask(self, noisy: Tensor) -> Tensor:
        """x_t with the additional input channels of an in-painting UNet, if it is one.

        They are a mask over the whole image and the latents of the masked image.

        Raises:
            ModelError: model.unknown-family: the UNet has other additional input channels.
        """
        import torch

        additional = self.unet.config.in_channels - noisy.shape[1]
        if not additional:
            return noisy
        n, channels, height, width = noisy.shape
        if additional != channels + 1:
            raise ModelError(
                "model.unknown-family",
                f"the UNet of {self.base.id} reads {additional} unknown channels",
                "forget edits text-to-image and in-painting models",
            )
        mask = noisy.new_ones(n, 1, height, width)
        masked_image = self._grey_latents.to(noisy)[..., :height, :width].expand(n, -1, -1, -1)
        return torch.cat([noisy, mask, masked_image], 1)

    @cached_property
    def _grey_latents(self) -> Tensor:
        """Latents of a grey image, shape (1, c, h, w). In-painting pipelines fill the mask with
        grey.
        """
        import torch

        _, height, width = self.latent_shape
        # In float32, because some VAEs overflow in float16.
        vae = self._network("vae", self.vae_class, torch.float32).to(self.device)
        scale = self.vae_scale
        with torch.no_grad():
            grey = torch.zeros(1, 3, height * scale, width * scale, device=self.device)
            encoded = vae.encode(grey)
            # AutoencoderTiny returns latents, not a distribution.
            mode = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
            return mode * vae.config.scaling_factor


def sides(sample_size: Any) -> tuple[int, int]:
    """Height and width of latents from a config, which gives one number for both or two numbers.

    Raises:
        ModelError: model.damaged.
    """
    both = [sample_size] * 2 if isinstance(sample_size, int) else sample_size
    if not isinstance(both, list | tuple) or len(both) != 2 or not all(map(_is_size, both)):
        raise ModelError(
            "model.damaged",
            f"the UNet's config has the sample_size {sample_size!r}, which is not an image size",
            "fetch the model again",
        )
    return both[0], both[1]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
