"""Single-file checkpoints with LDM key names, made from tiny diffusers folders the other way round
than forget reads them.

`from_single_file` of diffusers, which has its own tables, must load them as the folder they came
from: tests check that.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import POSITIONS
from safetensors.torch import load, save

METADATA = {"format": "pt", "modelspec.title": "tiny", "note": "ä"}


def ldm(
    folder: Path, path: Path, style: str = "sd1", *, vae: bool = True, ema: bool = False
) -> Path:
    """The weights of a diffusers folder as one file. `style` is ``sd1``, ``sd2`` or ``sdxl``.

    Args:
        ema: with running averages of the denoiser, which differ from the weights.
    """
    tensors = {
        f"model.diffusion_model.{_unet(key)}": t for key, t in weights(folder, "unet").items()
    }
    if ema:
        generator = torch.Generator().manual_seed(5)
        tensors |= {
            "model_ema." + key.removeprefix("model.").replace(".", ""): t
            + 0.01 * torch.randn(t.shape, generator=generator).to(t.dtype)
            for key, t in list(tensors.items())
        }
        tensors["model_ema.decay"] = torch.tensor(0.9999)
    if vae:
        tensors |= {
            f"first_stage_model.{_vae(key)}": _conv(key, t)
            for key, t in weights(folder, "vae").items()
        }
    text = weights(folder, "text_encoder")
    if style == "sd1":
        tensors |= {f"cond_stage_model.transformer.{key}": t for key, t in text.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(
            POSITIONS
        )[None]
    elif style == "sd2":
        tensors |= {f"cond_stage_model.model.{key}": t for key, t in _open_clip(text).items()}
    else:
        tensors |= {
            f"conditioner.embedders.0.transformer.text_model.{key.removeprefix('text_model.')}": t
            for key, t in text.items()
        }
        tensors |= {
            f"conditioner.embedders.1.model.{key}": t
            for key, t in _open_clip(weights(folder, "text_encoder_2")).items()
        }
    tensors["alphas_cumprod"] = torch.linspace(0.99, 0.01, 10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({key: t.contiguous() for key, t in tensors.items()}, metadata=METADATA))
    return path


def read_by_diffusers(pipeline: Any, file: Path, **options: Any) -> Any:
    """The pipeline that diffusers itself makes of a single file.

    Earlier versions ask CLIP models of transformers 5 for a `text_model`, which those do not have.
    The test is skipped then: it has nothing to compare with.
    """
    import diffusers

    try:
        return pipeline.from_single_file(str(file), local_files_only=True, **options)
    except AttributeError as fault:
        earlier = tuple(map(int, diffusers.__version__.split(".")[:2])) < (0, 42)
        if earlier and "text_model" in str(fault):
            pytest.skip(f"diffusers {diffusers.__version__} cannot read single files here")
        raise


def settings(folder: Path, target: Path) -> Path:
    """The small files of a diffusers folder: configs, tokenizer, scheduler."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors")))


def weights(folder: Path, component: str) -> dict[str, torch.Tensor]:
    return load(next((folder / component).glob("*.safetensors")).read_bytes())


def _unet(key: str) -> str:
    """For two levels with one layer each: input blocks 0 (first convolution), 1, 2 (down), 3;
    output blocks 0, 1 (up), 2, 3.
    """
    table = (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("down_blocks.1.attentions.0", "input_blocks.3.1"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.resnets.0", "output_blocks.0.0"),
        ("up_blocks.0.attentions.0", "output_blocks.0.1"),
        ("up_blocks.0.resnets.1", "output_blocks.1.0"),
        ("up_blocks.0.attentions.1", "output_blocks.1.1"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
        ("up_blocks.1.resnets.0", "output_blocks.2.0"),
        ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    )
    stem, new = next((old, new) for old, new in table if key.startswith(old + "."))
    rest = key.removeprefix(stem)
    if "resnets" in stem:
        for old, other in (
            (".norm1", ".in_layers.0"),
            (".conv1", ".in_layers.2"),
            (".norm2", ".out_layers.0"),
            (".conv2", ".out_layers.3"),
            (".time_emb_proj", ".emb_layers.1"),
            (".conv_shortcut", ".skip_connection"),
        ):
            rest = rest.replace(old, other)
    return new + rest


def _vae(key: str) -> str:
    """For two levels."""
    key = re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{1 - int(m[1])}.", key)
    for old, new in (
        ("down_blocks.", "down."),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("resnets.", "block."),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("upsamplers.0", "upsample"),
        ("downsamplers.0", "downsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_norm_out", "norm_out"),
    ):
        key = key.replace(old, new)
    return key


def _conv(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Attention in VAEs is made of 1×1 convolutions there."""
    return tensor[..., None, None] if "attentions" in key and tensor.ndim == 2 else tensor


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    text = {key.removeprefix("text_model."): t for key, t in text.items()}
    found = {
        "token_embedding.weight": text.pop("embeddings.token_embedding.weight"),
        "positional_embedding": text.pop("embeddings.position_embedding.weight"),
        "logit_scale": torch.tensor(4.6),
    }
    width = found["positional_embedding"].shape[1]
    found["text_projection"] = text.pop("text_projection.weight", torch.eye(width)).T
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = text.pop(f"final_layer_norm.{kind}")
        for number in {key.split(".")[2] for key in text if key.startswith("encoder.layers.")}:
            stem, block = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(
                [text.pop(f"{stem}self_attn.{x}_proj.{kind}") for x in "qkv"]
            )
            for old, new in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                found[f"{block}{new}.{kind}"] = text.pop(f"{stem}{old}.{kind}")
    assert not text
    return found
