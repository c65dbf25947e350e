"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention, a VAE."""
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from forgetcli import components
from forgetcli.errors import EditError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint import Base

BATCH = 64                                                            # prompts encoded at a time
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")


@dataclass(frozen=True)
class Site:
    """One linear layer that can be edited; `parameter` is its weight's name within the component."""

    component: str
    name: str
    module: torch.nn.Linear

    @property
    def parameter(self) -> str:
        return f"{self.name}.weight"


class StableDiffusion:
    """A loaded model. Components are read when first used: an edit without refinement never loads the UNet."""

    causal = True                                                     # CLIP's text encoder: positions see only what is before

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self.base, self.device, self.dtype = base, device, dtype

    def _component(self, name: str, loader):
        return components.part(self.base, name, loader)

    def _network(self, name: str, cls):
        return components.network(self.base, name, cls, self.dtype).to(self.device)

    @cached_property
    def tokenizer(self):
        from transformers import CLIPTokenizer

        return self._component("tokenizer", CLIPTokenizer.from_pretrained)

    @cached_property
    def text_encoder(self):
        from transformers import CLIPTextModel

        return self._network("text_encoder", CLIPTextModel)

    @cached_property
    def unet(self):
        from diffusers import UNet2DConditionModel

        return self._network("unet", UNet2DConditionModel)

    @cached_property
    def vae(self):
        from diffusers import AutoencoderKL

        return self._network("vae", AutoencoderKL)

    @cached_property
    def scheduler(self):
        from diffusers import DDIMScheduler

        return self._component("scheduler", DDIMScheduler.from_pretrained)

    @cached_property
    def sites(self) -> dict[int, Site]:
        """Block number → the second linear layer of its MLP, found by structure."""
        import torch

        found = {}
        for name, module in self.text_encoder.named_modules():
            parts = name.split(".")
            if isinstance(module, torch.nn.Linear) and parts[-2:] == ["mlp", "fc2"]:
                found[int(parts[-3])] = Site("text_encoder", name, module)
        return found

    @cached_property
    def cross_attention(self) -> dict[str, Site]:
        """The denoiser's layers that read the context, `to_k` and `to_v` of every cross-attention, by name."""
        import torch

        return {name: Site("unet", name, module) for name, module in self.unet.named_modules()
                if isinstance(module, torch.nn.Linear) and name.split(".")[-2:-1] == ["attn2"] and name.endswith((".to_k", ".to_v"))}

    def pick_sites(self, blocks) -> list[Site]:
        """The sites of these blocks, in order.

        Raises:
            EditError: the model has no such block.
        """
        missing = [b for b in blocks if b not in self.sites]
        if missing:
            raise EditError("edit.no-such-site", f"the text encoder has no block {missing[0]}",
                            f"[edit] sites can be {min(self.sites)} to {max(self.sites)}")
        return [self.sites[b] for b in sorted(set(blocks))]

    def encode(self, ids: Tensor) -> Tensor:
        """Token ids (n, length) → context (n, length, d), as the denoiser reads it."""
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    def denoise(self, noisy: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The denoiser's raw prediction (ε or v, as the model was trained) for noisy latents (n, c, h, w)."""
        return self.unet(noisy, t, encoder_hidden_states=context).sample

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    def keys(self, sites: list[Site], ids: Tensor) -> dict[str, Tensor]:
        """Inputs of the sites for all positions: name → (n, length, d_in), on the CPU, float64."""
        import torch

        caught: dict[str, list[Tensor]] = {s.name: [] for s in sites}
        hooks = [s.module.register_forward_pre_hook(
            lambda _, args, name=s.name: caught[name].append(args[0].detach().double().cpu())) for s in sites]
        try:
            with torch.no_grad():
                for part in ids.split(BATCH):
                    self.encode(part)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in caught.items()}

    @contextmanager
    def weights(self, changed: dict[tuple[str, str], Tensor]):
        """These weights in place of the model's own, for the length of a `with`."""
        import torch

        modules = {"text_encoder": lambda: self.text_encoder, "unet": lambda: self.unet}
        kept = []
        try:
            with torch.no_grad():
                for (component, parameter), weight in changed.items():
                    target = modules[component]().get_parameter(parameter)
                    kept.append((target, target.detach().clone()))
                    target.copy_(weight.to(target))
            yield
        finally:
            with torch.no_grad():
                for target, weight in kept:
                    target.copy_(weight)


def load(base: Base, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    return StableDiffusion(base, device, dtype)
