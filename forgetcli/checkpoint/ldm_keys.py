"""Keys in single-file checkpoints (the layout of CompVis' latent-diffusion) for the parameters of
diffusers' components.

Pure functions and tables: what a file holds is known from its keys alone. Such files are what
ComfyUI and A1111 read.
The text encoder of Stable Diffusion 1.x (and the first of SDXL) has transformers' own names behind
a prefix; that of
2.x (and SDXL's second) is OpenCLIP, which stores q, k and v in one tensor. The denoiser's blocks
are numbered through,
down and up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

DENOISER = "model.diffusion_model."
VAE = "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_XL, OPEN_CLIP_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
EMA = "model_ema."

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}  # the latter: diffusers before 0.12
OPEN_CLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


@dataclass(frozen=True)
class Place:
    """Where a parameter's values lie.

    Attributes:
        key: the tensor's name in the file.
        third: of a tensor that holds q, k and v one below the other, which of the three; None for a
            whole tensor.
        transposed: stored the other way round.
    """

    key: str
    third: int | None = None
    transposed: bool = False


class LdmKeys:
    """What a single file holds, from its keys."""

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = keys

    @cached_property
    def architecture(self) -> str | None:
        """``sd1``, ``sd2`` or ``sdxl``; None for anything else (a LoRA, a single component, another
        family).
        """
        if not self._any(DENOISER + "input_blocks."):
            return None
        for name, prefixes in (
            ("sdxl", (CLIP_XL, OPEN_CLIP_XL)),
            ("sd1", (CLIP,)),
            ("sd2", (OPEN_CLIP,)),
        ):
            if all(self._any(prefix) for prefix in prefixes):
                return name
        return None

    @cached_property
    def components(self) -> dict[str, tuple[str, Callable[[str], Iterator[Place]]]]:
        """The diffusers components that are in the file: name → prefix of their keys, places that a
        parameter can have.
        """
        encoders = {
            "sd1": {"text_encoder": (CLIP, clip_places)},
            "sd2": {"text_encoder": (OPEN_CLIP, open_clip_places)},
            "sdxl": {
                "text_encoder": (CLIP_XL, clip_places),
                "text_encoder_2": (OPEN_CLIP_XL, open_clip_places),
            },
        }
        all_ = {
            **encoders.get(self.architecture, {}),
            "unet": (DENOISER, lambda name: unet_places(name, self.layers)),
            "vae": (VAE, lambda name: vae_places(name, self.vae_levels)),
        }
        return {name: found for name, found in all_.items() if self._any(found[0])}

    @cached_property
    def layers(self) -> int:
        """diffusers' ``layers_per_block`` of the denoiser: so many input blocks lie between number
        0 and the first downsampler.
        """
        blocks = self._numbers(DENOISER + "input_blocks.")
        first = next(
            (n for n in sorted(blocks) if f"{DENOISER}input_blocks.{n}.0.op.weight" in self.keys),
            len(blocks),
        )
        return first - 1

    @cached_property
    def vae_levels(self) -> int:
        return len(self._numbers(VAE + "decoder.up."))

    def place(self, component: str, parameter: str) -> Place | None:
        """Where a component's parameter (as diffusers or transformers name it) lies; None if the
        file does not have it.
        """
        if component not in self.components:
            return None
        prefix, places = self.components[component]
        for found in places(parameter):
            if prefix + found.key in self.keys:
                return Place(prefix + found.key, found.third, found.transposed)
        return None

    def copies(self, key: str) -> list[str]:
        """The keys of the same tensor's running averages: loaders that ask for these would find it
        unedited.
        """
        return [averaged] if (averaged := averaged_key(key)) in self.keys else []

    def _any(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.keys)

    def _numbers(self, prefix: str) -> set[int]:
        return {
            int(key.removeprefix(prefix).partition(".")[0])
            for key in self.keys
            if key.startswith(prefix)
        }


def averaged_key(key: str) -> str | None:
    """The key of a denoiser tensor's running average; its dots are gone, because PyTorch allows
    none in a buffer's name.
    """
    return EMA + key.removeprefix("model.").replace(".", "") if key.startswith(DENOISER) else None


def clip_places(name: str) -> Iterator[Place]:
    """A CLIP text encoder's parameter: transformers' own name; before and since version 5, with or
    without ``text_model.``.
    """
    plain = name.removeprefix("text_model.")
    yield Place("text_model." + plain)
    yield Place(plain)


def open_clip_places(name: str) -> Iterator[Place]:
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
        yield Place("text_projection", transposed=True)  # there a plain matrix: x @ text_projection
    elif name in OPEN_CLIP_TOP:
        yield Place(OPEN_CLIP_TOP[name])
    elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, layer, kind = found.groups()
        block = f"transformer.resblocks.{number}."
        if qkv := re.fullmatch(r"self_attn\.([qkv])_proj", layer):
            yield Place(f"{block}attn.in_proj_{kind}", third="qkv".index(qkv[1]))
        elif layer in OPEN_CLIP_LAYER:
            yield Place(f"{block}{OPEN_CLIP_LAYER[layer]}.{kind}")


def unet_places(name: str, layers: int) -> Iterator[Place]:
    """A denoiser's parameter. Each diffusers block is `layers` + 1 numbered ones: input block 0 is
    the first convolution,
    the last of a down block its downsampler; an up block has one resnet more, and its upsampler in
    the last one."""
    if found := re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    ):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        number = block * (layers + 1) + (layer if kind in ("resnets", "attentions") else layers)
        stem = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
        if kind == "resnets":
            yield Place(f"{stem}.0.{_renamed(rest, UNET_RESNET)}")
        elif kind == "attentions":
            yield Place(f"{stem}.1.{rest}")
        elif kind == "downsamplers":
            yield Place(f"{stem}.0.{rest.replace('conv', 'op', 1)}")
        else:
            yield Place(f"{stem}.2.{rest}")  # after a resnet and an attention
            yield Place(f"{stem}.1.{rest}")  # after a resnet
    elif found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, layer, rest = found[1], int(found[2]), found[3]
        yield Place(
            f"middle_block.{2 * layer}.{_renamed(rest, UNET_RESNET)}"
            if kind == "resnets"
            else f"middle_block.{2 * layer + 1}.{rest}"
        )
    else:
        yield Place(_renamed(name, UNET_TOP))


def vae_places(name: str, levels: int) -> Iterator[Place]:
    """An autoencoder's parameter. The decoder's levels are counted from the pictures down,
    diffusers' up blocks the other way.
    """
    if found := re.fullmatch(
        r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)",
        name,
    ):
        half, side, block, kind, layer, rest = found.groups()
        level = int(block) if side == "down" else levels - 1 - int(block)
        inner = (
            f"block.{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
            if kind == "resnets"
            else f"{side}sample.{rest}"
        )
        yield Place(f"{half}.{side}.{level}.{inner}")
    elif found := re.fullmatch(
        r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name
    ):
        half, kind, layer, rest = found[1], found[2], int(found[3]) + 1, found[4]
        yield Place(
            f"{half}.mid.block_{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
            if kind == "resnets"
            else f"{half}.mid.attn_{layer}.{_renamed(rest, VAE_ATTENTION)}"
        )
    else:
        yield Place(name.replace("conv_norm_out", "norm_out"))


def _renamed(name: str, table: dict[str, str]) -> str:
    """`name` with its module (all but the last part) looked up in the table."""
    module, _, kind = name.rpartition(".")
    return f"{table.get(module, module)}.{kind}"
