"""Stable Diffusion 1.x at its published size, with random weights and CLIP's published vocabulary.

Clients written in C++ have the sizes of the architecture compiled in, so nothing smaller loads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from clip_vocabulary import POSITIONS, TOKENS, write_tokenizer
from pipelines import classic_keys, seeded
from processes import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from full_size import REAL

LATENTS = 8  # images of 64×64 pixels
# With random weights cross-attention adds little to an image, and the decoder's images are grey.
# These factors bring the text's effect above the rounding to 256 levels.
ATTENTION_GAIN = 8.0
DECODER_GAIN = 4.0


def published_size(folder: Path, seed: int = 0) -> Path:
    """Save the pipeline in float16: 2.1 GB."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    write_tokenizer(folder / "tokenizer")
    words = {
        "vocab_size": TOKENS,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": TOKENS - 2,
        "eos_token_id": TOKENS - 1,
        "pad_token_id": TOKENS - 1,
    }
    unet: dict[str, Any] = {"sample_size": LATENTS, "in_channels": 4, "out_channels": 4}
    with seeded(seed):
        made = CLIPTextModel(CLIPTextConfig(**words, **REAL["text"])).half()
        made.save_pretrained(folder / "text_encoder")
        made = UNet2DConditionModel(**unet, **REAL["unet"])
        scale(made, "attn2.to_out.0.weight", ATTENTION_GAIN)
        made.half().save_pretrained(folder / "unet")
        made = AutoencoderKL(**REAL["vae"])
        scale(made, "decoder.conv_out.weight", DECODER_GAIN)
        made.half().save_pretrained(folder / "vae")
    classic_keys(folder / "text_encoder" / "model.safetensors")
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def scale(module: torch.nn.Module, ending: str, factor: float) -> None:
    """Multiply the parameters whose names have this ending."""
    parameters = [p for name, p in module.named_parameters() if name.endswith(ending)]
    assert parameters
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor)
