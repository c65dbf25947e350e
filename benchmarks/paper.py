"""What `forget apply` cannot avoid, on paper: operations and bytes for Stable Diffusion 1.4, SDXL
and FLUX.1, counted from their published configurations on torch's meta device. No weights are
needed and nothing is computed.

    python benchmarks/paper.py
    python benchmarks/paper.py --float32 85e9 --float64 41e9 --disk 1e9     # one thread here

The rates turn the counts into seconds. The defaults are for one NVIDIA H100 (SXM): half of its
67 TFLOP/s in float32 without TF32, half of its 67 TFLOP/s in float64, and files at 2 GB/s. Nothing
here was measured on such a card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from forgetcli.editing import check
from forgetcli.pipeline.estimates import checked

PRESERVE, WORDS, PAIRS, STEPS = 1000, 2000, 80, 30
POSITIONS, LAST_SITE, SITES = 77, 3, 3
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
BIG_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
SD14 = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def counted(run) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def unet(settings: dict, side: int) -> tuple[int, int]:
    """Operations of one prediction, and parameters."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(sample_size=side, in_channels=4, out_channels=4, **settings)
        width = settings["cross_attention_dim"]
        conditions = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        flops = counted(
            lambda: network(
                torch.empty(1, 4, side, side),
                torch.tensor(1.0),
                torch.empty(1, POSITIONS, width),
                added_cond_kwargs=conditions,
            )
        )
    return flops, sum(p.numel() for p in network.parameters())


def flux(side: int) -> tuple[int, int]:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
        patches = (side // 2) ** 2
        flops = counted(
            lambda: network(
                hidden_states=torch.empty(1, patches, 64),
                encoder_hidden_states=torch.empty(1, 512, 4096),
                pooled_projections=torch.empty(1, 768),
                timestep=torch.empty(1),
                guidance=torch.empty(1),
                txt_ids=torch.empty(512, 3),
                img_ids=torch.empty(patches, 3),
            )
        )
    return flops, sum(p.numel() for p in network.parameters())


def encoder(settings: dict) -> tuple[int, int, int]:
    """Operations of one prompt, those up to the last site, and parameters."""
    d, inner, blocks = (
        settings[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    attention = 4 * POSITIONS * POSITIONS * d
    block = 2 * POSITIONS * (4 * d * d + 2 * d * inner) + attention
    last = block - 2 * POSITIONS * d * inner
    weights = blocks * (4 * d * d + 2 * d * inner) + 49408 * d
    return blocks * block, LAST_SITE * block + last, weights


def model(name: str, encoders: list[dict], denoiser, side: int, everything: float) -> dict:
    """Counts for one model.

    Args:
        everything: bytes of all files.
    """
    prediction, weights = denoiser(side)
    small, _ = denoiser(check.LARGEST_SIDE)
    single = double = 0
    for settings in encoders:
        whole, up_to_site, _ = encoder(settings)
        width = settings["intermediate_size"]
        single += (PRESERVE + WORDS) * up_to_site
        single += 3 * whole * PAIRS * STEPS  # a gradient costs twice as much as the encoding
        # Half of the products of the keys, and one eigendecomposition a site (9 n³).
        double += SITES * ((PRESERVE + WORDS) * (POSITIONS - 5) * width**2 + 9 * width**3)
    return {
        "model": name,
        "denoiser_parameters": weights,
        "prediction": prediction,
        "prediction_of_the_check": small,
        "check": checked(weights) * small,
        "check_at_native_size": checked(weights) * prediction,
        "float32": single,
        "float64": double,
        "bytes": everything,
    }


def main(float32: float, float64: float, disk: float) -> list[dict]:
    found = [
        model("SD 1.4", [CLIP_L], lambda side: unet(SD14, side), 64, 2.7e9),
        model("SDXL", [CLIP_L, BIG_G], lambda side: unet(SDXL, side), 128, 7.0e9),
        model("FLUX.1", [CLIP_L], flux, 128, 33.7e9),
    ]
    for row in found:
        row["seconds"] = {
            "encoder and descent": row["float32"] / float32,
            "float64": row["float64"] / float64,
            "check": row["check"] / float32,
            # Read once for the digest and once for the copy, written once; a reflink copies none.
            "files": row["bytes"] / disk,
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--float32", type=float, default=33e12, help="operations a second")
    parser.add_argument("--float64", type=float, default=33e12)
    parser.add_argument("--disk", type=float, default=2e9, help="bytes a second")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = main(args.float32, args.float64, args.disk)
    print(json.dumps(rows, indent=2))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
