"""Tiny real pipelines: diffusers' and transformers' own classes, random weights, saved as a
diffusers folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

WORDS = (
    "a",
    "painting",
    "picture",
    "of",
    "by",
    "cat",
    "dog",
    "house",
    "van",
    "gogh",
    "monet",
    "starry",
    "night",
    "sketch",
)
POSITIONS = 24
WIDTH = 32


def tiny_sd(
    folder: Path, dtype: torch.dtype = torch.float16, layers: int = 4, seed: int = 0
) -> Path:
    """Save a Stable Diffusion pipeline of about 1 MB at `folder`: 16×16 pictures, 8×8 latents, 24
    token positions.

    The text encoder's file has the classic ``text_model.`` keys, as published checkpoints do,
    whatever transformers
    writes now.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir(parents=True, exist_ok=True)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    vocabulary = tiny_tokenizer(folder / "tokenizer")
    end = vocabulary["<|endoftext|>"]
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=POSITIONS,
            projection_dim=WIDTH,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=16,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    torch.random.set_rng_state(state)
    for name, module in (("text_encoder", text_encoder), ("unet", unet), ("vae", vae)):
        module.to(dtype).save_pretrained(folder / name)
    classic_keys(folder / "text_encoder" / "model.safetensors")
    DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": "0.35.0",
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "scheduler": ["diffusers", "DDIMScheduler"],
                "safety_checker": [None, None],
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "requires_safety_checker": False,
            },
            indent=2,
        )
    )
    return folder


def tiny_inpainting(folder: Path, seed: int = 0) -> Path:
    """`tiny_sd` with a UNet that also reads a mask and the masked image: nine channels."""
    from diffusers import UNet2DConditionModel

    tiny_sd(folder, torch.float32, seed=seed)
    config = json.loads((folder / "unet" / "config.json").read_text())
    with seeded(seed):
        UNet2DConditionModel.from_config({**config, "in_channels": 9}).save_pretrained(
            folder / "unet"
        )
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "StableDiffusionInpaintPipeline"}, indent=2)
    )
    return folder


def tiny_sdxl(
    folder: Path, seed: int = 0, zeros: bool = True, dtype: torch.dtype = torch.float32
) -> Path:
    """Save a Stable Diffusion XL pipeline: two CLIP encoders of different width, of which the
    second pads with "!" and has a summary
    of another width than its own."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with seeded(seed):
        parts = {
            "text_encoder": CLIPTextModel(clip_config(tiny_tokenizer(folder / "tokenizer"), 32, 5)),
            "text_encoder_2": CLIPTextModelWithProjection(
                clip_config(tiny_tokenizer(folder / "tokenizer_2", pad="!"), 48, 5, 40)
            ),
            "unet": UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64),
                layers_per_block=1,
                cross_attention_dim=32 + 48,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=8,
                norm_num_groups=8,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 40,
            ),
            "vae": AutoencoderKL(**VAE),
            "scheduler": EulerDiscreteScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                steps_offset=1,
                timestep_spacing="leading",
            ),
        }
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        parts[name].to(dtype)
    return save(
        folder,
        "StableDiffusionXLPipeline",
        parts,
        tokenizer="CLIPTokenizer",
        tokenizer_2="CLIPTokenizer",
        force_zeros_for_empty_prompt=zeros,
    )


def tiny_sd3(folder: Path, seed: int = 0, t5: bool = True) -> Path:
    """Save a Stable Diffusion 3.5 pipeline, with a block that attends to the picture alone as well;
    `t5`: with that encoder.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    with seeded(seed):
        parts = {
            "text_encoder": CLIPTextModelWithProjection(
                clip_config(tiny_tokenizer(folder / "tokenizer"), 32, 4)
            ),
            "text_encoder_2": CLIPTextModelWithProjection(
                clip_config(tiny_tokenizer(folder / "tokenizer_2", pad="!"), 48, 5)
            ),
            "text_encoder_3": t5_encoder(folder / "tokenizer_3", 96),
            "transformer": SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=96,
                pooled_projection_dim=32 + 48,
                pos_embed_max_size=8,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            "vae": AutoencoderKL(**VAE, shift_factor=0.1),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
    if not t5:
        parts["text_encoder_3"] = None
    return save(
        folder,
        "StableDiffusion3Pipeline",
        parts,
        tokenizer="CLIPTokenizer",
        tokenizer_2="CLIPTokenizer",
        tokenizer_3="T5TokenizerFast" if t5 else None,
    )


def tiny_flux(folder: Path, seed: int = 0) -> Path:
    """Save a FLUX.1 (dev) pipeline."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel

    with seeded(seed):
        parts = {
            "text_encoder": CLIPTextModel(clip_config(tiny_tokenizer(folder / "tokenizer"), 32, 4)),
            "text_encoder_2": t5_encoder(folder / "tokenizer_2", 48),
            "transformer": FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=48,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6),
            ),
            "vae": AutoencoderKL(**VAE, shift_factor=0.1),
            "scheduler": FlowMatchEulerDiscreteScheduler(
                shift=3.0, use_dynamic_shifting=True, max_shift=1.15
            ),
        }
    return save(
        folder, "FluxPipeline", parts, tokenizer="CLIPTokenizer", tokenizer_2="T5TokenizerFast"
    )


VAE = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "sample_size": 16,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed`, and afterwards as if nothing had been drawn."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def clip_config(vocabulary: dict[str, int], width: int, layers: int, summary: int | None = None):
    from transformers import CLIPTextConfig

    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        projection_dim=summary or width,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )


def t5_encoder(tokenizer: Path, width: int):
    """A T5 encoder of four blocks; writes its tokenizer, which knows `WORDS` and letters."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        *(f"▁{word}" for word in WORDS),
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    T5TokenizerFast(
        vocab=[(piece, 0.0 if n < 3 else -1.0 - n / 100) for n, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=512,
    ).save_pretrained(tokenizer)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(pieces),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=4,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def save(folder: Path, pipeline: str, parts: dict, **index) -> Path:
    """The parts and a model_index.json that names them; `index`: tokenizer classes and settings."""
    named = {
        name: [type(part).__module__.split(".")[0], type(part).__name__]
        if part is not None
        else [None, None]
        for name, part in parts.items()
    }
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
    named |= {
        name: ["transformers", value]
        if isinstance(value, str)
        else [None, None]
        if value is None
        else value
        for name, value in index.items()
    }
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": pipeline, "_diffusers_version": "0.35.0", **named}, indent=2)
    )
    return folder


def tiny_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> dict[str, int]:
    """Write a CLIP tokenizer that knows all bytes, and `WORDS` as one token each; returns its
    vocabulary.
    """
    letters = list(byte_letters())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[str] = []
    for word in WORDS:
        left = word[0]
        for at, letter in enumerate(word[1:], 2):
            right = letter + ("</w>" if at == len(word) else "")
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                vocabulary.append(left + right)
            left += right
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    table = {token: number for number, token in enumerate(vocabulary)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(table))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": POSITIONS,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": pad,
            },
            indent=2,
        )
    )
    return table


def classic_keys(path: Path) -> None:
    """Give a CLIP text encoder's weight file the ``text_model.`` keys that transformers before 5
    wrote.
    """
    from safetensors.torch import load, save

    tensors = load(path.read_bytes())
    renamed = {
        key if key.startswith("text_model.") else f"text_model.{key}": tensor
        for key, tensor in tensors.items()
    }
    path.unlink()  # it has mode 0600; the new file's is the umask's
    path.write_bytes(save(renamed, metadata={"format": "pt"}))


def shard(path: Path, parts: int = 2) -> None:
    """Split a weight file into shards with an index.json, as `save_pretrained(max_shard_size=…)`
    does.
    """
    from safetensors.torch import load, save

    tensors = load(path.read_bytes())
    stem, keys, files = path.name.removesuffix(".safetensors"), sorted(tensors), {}
    for number in range(parts):
        name = f"{stem}-{number + 1:05d}-of-{parts:05d}.safetensors"
        (path.parent / name).write_bytes(
            save({key: tensors[key] for key in keys[number::parts]}, metadata={"format": "pt"})
        )
        files |= dict.fromkeys(keys[number::parts], name)
    path.with_name(f"{path.name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    path.unlink()


def byte_letters() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's and CLIP's byte-level BPE."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]
