"""Train the autoencoder (f = 4, 4 latent channels). Resumable: run again with the same --work to go
on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": 64,
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
# Red–green and blue–yellow planes: without this term small autoencoders turn red into orange.
OPPONENT = torch.tensor([[1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]])


def loss_of(vae, batch):
    posterior = vae.encode(batch).latent_dist
    out = vae.decode(posterior.sample()).sample
    pixel = (out - batch).abs().mean() + 0.5 * F.mse_loss(out, batch)
    edge = sum((torch.diff(out, dim=d) - torch.diff(batch, dim=d)).abs().mean() for d in (2, 3))

    def chroma(x):
        return torch.einsum("oc,bchw->bohw", OPPONENT, F.avg_pool2d(x, 4))

    colour = (chroma(out) - chroma(batch)).abs().mean()
    kl = posterior.kl().mean() / batch[0].numel()
    return pixel + 0.5 * edge + 0.5 * colour + 3e-3 * kl, pixel


def main(work: Path, minutes: float, batch_size: int, begin: Path | None) -> None:
    pictures = np.load(work / "model.npy", mmap_mode="r").reshape(-1, 64, 64, 3)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    vae = (
        AutoencoderKL.from_pretrained(begin, torch_dtype=torch.float32)
        if begin
        else AutoencoderKL(**CONFIG)
    )
    vae = vae.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    state = work / "vae.pt"
    elapsed = 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        vae.load_state_dict(saved["vae"]), optimiser.load_state_dict(saved["optimiser"])
        elapsed = saved["elapsed"]
    start, step, seen, spent = time.time(), 0, 0, elapsed
    while (spent := elapsed + time.time() - start) < minutes * 60:
        progress = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 - progress))
        index = np.sort(rng.integers(0, len(pictures), batch_size))
        batch = torch.from_numpy(pictures[index]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        loss, pixel = loss_of(vae, batch.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        step, seen = step + 1, seen + batch_size
        if step % 50 == 0:
            print(
                f"{spent / 60:5.1f} min  loss {loss.item():.4f}  L1 {pixel.item():.4f}  {seen / (time.time() - start):.0f} images/s",  # noqa: E501
                flush=True,
            )
        if step % 400 == 0:
            torch.save(
                {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "elapsed": spent},
                state,
            )
    torch.save(
        {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "elapsed": spent}, state
    )
    vae.eval()

    with torch.no_grad():  # latents of all pictures, unit deviation
        means, deviations = [], []
        for k in range(0, len(pictures), 100):
            batch = (
                torch.from_numpy(pictures[k : k + 100])
                .permute(0, 3, 1, 2)
                .float()
                .div(127.5)
                .sub(1)
            )
            posterior = vae.encode(batch).latent_dist
            means.append(posterior.mean.half()), deviations.append(posterior.std.half())
        mean, deviation = torch.cat(means), torch.cat(deviations)
    vae.register_to_config(scaling_factor=round(1 / mean.float().std().item(), 5))
    vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
    torch.save({"mean": mean, "deviation": deviation}, work / "latents.pt")
    print(f"latent deviation {mean.float().std():.3f}, posterior {deviation.float().mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=13)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--begin",
        type=Path,
        help="start from these weights; with --minutes 0, only encode the pictures",
    )
    args = parser.parse_args()
    main(args.work, args.minutes, args.batch, args.begin)
