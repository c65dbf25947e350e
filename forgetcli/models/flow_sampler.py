"""The flow-matching sampler of diffusers, extended to add noise at arbitrary times."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


class FlowSampler(FlowMatchEulerDiscreteScheduler):
    """x_t = (1 − σ) x₀ + σ ε with t = 1000 σ."""

    config: Any

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for latents x₀ and noise ε, (n, c, h, w), and t, (n,)."""
        sigma = (t.to(clean) / self.config.num_train_timesteps).reshape(-1, 1, 1, 1)
        return (1 - sigma) * clean + sigma * noise
