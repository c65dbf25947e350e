"""Sharpen the autoencoder's decoder on fixed latents, so that a denoiser that was trained on them
stays valid.

The pixel losses of train_vae.py end in the median of what a latent may stand for: brush strokes,
dabs and hatching come
out as a blur. A loss on local texture energy (how much the picture changes from pixel to pixel,
averaged over 8×8) says
that there is texture without saying where each stroke lies. Latents get noise, since generated ones
are not exact.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from train_vae import OPPONENT


def energy(x: torch.Tensor) -> list[torch.Tensor]:
    """Mean absolute difference of neighbours in each direction, over 8×8 windows."""
    return [F.avg_pool2d(torch.diff(x, dim=d).abs(), 8, 4) for d in (2, 3)]


def loss_of(out: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixel = (out - batch).abs().mean()

    def chroma(x):
        return torch.einsum("oc,bchw->bohw", OPPONENT, F.avg_pool2d(x, 4))

    texture = sum((a - b).abs().mean() for a, b in zip(energy(out), energy(batch)))
    return pixel + 0.5 * (chroma(out) - chroma(batch)).abs().mean() + 2.0 * texture, texture


def main(work: Path, minutes: float, batch_size: int, noise: float, blend: float) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = np.load(work / "model.npy", mmap_mode="r").reshape(-1, 64, 64, 3)
    mean = torch.load(work / "latents.pt", weights_only=True)["mean"]
    vae = AutoencoderKL.from_pretrained(work / "vae", torch_dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=5e-4, betas=(0.9, 0.99), weight_decay=1e-4)
    start, step, textures = time.time(), 0, []
    while (progress := (time.time() - start) / (minutes * 60)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 6e-4 * min(1, (step + 1) / 50) * (0.02 + 0.98 * (1 - progress))
        index = np.sort(rng.integers(0, len(pictures), batch_size))
        target = torch.from_numpy(pictures[index]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        latent = mean[index].float()
        latent = latent + noise * latent.std() * torch.rand(
            len(latent), 1, 1, 1
        ) * torch.randn_like(latent)
        loss, texture = loss_of(vae.decode(latent).sample, target)
        optimiser.zero_grad(), loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step, textures = step + 1, [*textures[-99:], texture.item()]
        if step % 50 == 0:
            print(
                f"{progress * minutes:4.1f} min  step {step}  loss {loss.item():.4f}  texture {np.mean(textures):.4f}",  # noqa: E501
                flush=True,
            )
    vae.load_state_dict(
        {name: torch.lerp(before[name], tensor, blend) for name, tensor in vae.state_dict().items()}
    )
    vae.save_pretrained(work / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--noise",
        type=float,
        default=0.2,
        help="largest noise on the latents, relative to their deviation",
    )
    parser.add_argument(
        "--blend",
        type=float,
        default=0.5,
        help="weight of the sharpened decoder; the rest is the one before",
    )
    args = parser.parse_args()
    main(args.work, args.minutes, args.batch, args.noise, args.blend)
