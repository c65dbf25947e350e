"""The names that single-file checkpoints of Stable Diffusion 1.x, 2.x and XL have for the
parameters of diffusers' components.

The names are those of CompVis' latent-diffusion (LDM), which ComfyUI and A1111 read. One table per
component serves both ways: `LdmKeys` finds parameters in a file by them, `Layout` writes a file by
them. What a file holds is known from its keys alone.

The text encoder of Stable Diffusion 1.x (and the first of XL) has transformers' names behind a
prefix. The one of 2.x (and the second of XL) is OpenCLIP, which stores q, k and v in one tensor.

    UNet, n = layers_per_block   down block b, layer j → input_blocks.(1 + b(n+1) + j)
                                 its downsampler       → input_blocks.((b+1)(n+1))
                                 up block b, layer j   → output_blocks.(b(n+1) + j)
                                 its upsampler         → at the end of output_blocks.(b(n+1) + n)
    VAE, N levels                decoder up block b    → decoder.up.(N − 1 − b)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from forgetcli.errors import ModelError

DENOISER = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."
EMA = "model_ema."

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",  # guidance, in models distilled with it
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
# The last four are names of diffusers before 0.12.
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
}
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
UNET_ATTENTION = ("norm", "proj_in", "proj_out")  # and transformer_blocks: the same names in both
UNET_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
VAE_TOP = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
CLASSIC = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)
XL = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
UNET_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class Place:
    """Where a parameter's values are in a single file.

    Attributes:
        key: the tensor's name in the file, with or without the component's prefix.
        third: for a tensor that holds q, k and v below one another, which of the three; None for
            a whole tensor.
        transposed: the matrix is stored transposed.
        convolution: a matrix (m, n) is stored as a convolution's kernel (m, n, 1, 1).
    """

    key: str
    third: int | None = None
    transposed: bool = False
    convolution: bool = False

    def behind(self, prefix: str) -> Place:
        return replace(self, key=prefix + self.key)


# Each function below yields the places that a parameter can have, the usual one first, and none
# for a parameter that the original code does not have.


def clip_places(name: str) -> Iterator[Place]:
    """A text encoder in transformers' names: with ``text_model.``, as all versions before 5 have
    it, or without.
    """
    plain = name.removeprefix("text_model.")
    if plain.startswith("text_projection"):
        yield Place(plain)
        yield Place("text_model." + plain)
    else:
        yield Place("text_model." + plain)
        yield Place(plain)


def open_clip_places(name: str) -> Iterator[Place]:
    """A text encoder in OpenCLIP's names."""
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
        yield Place("text_projection", transposed=True)  # a plain matrix: x @ text_projection
        yield Place("text_projection.weight")  # a linear layer, as Playground has it
    elif name in OPEN_CLIP_TOP:
        yield Place(OPEN_CLIP_TOP[name])
    elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, layer, kind = match.groups()
        block = f"transformer.resblocks.{number}."
        if qkv := re.fullmatch(r"self_attn\.([qkv])_proj", layer):
            yield Place(f"{block}attn.in_proj_{kind}", third="qkv".index(qkv[1]))
        elif layer in OPEN_CLIP_LAYER:
            yield Place(f"{block}{OPEN_CLIP_LAYER[layer]}.{kind}")


def unet_places(name: str, layers: int, attended: Sequence[bool] | None = None) -> Iterator[Place]:
    """A denoiser's parameter.

    Args:
        layers: layers_per_block.
        attended: whether each up block has attention, which decides where its upsampler is; None
            where it is not known, which gives both places.
    """
    module, _, kind = name.rpartition(".")
    if module in UNET_TOP:
        yield Place(f"{UNET_TOP[module]}.{kind}")
    elif match := re.fullmatch(r"mid_block\.((resnets|attentions)\.\d+)\.(.+)", module):
        if match[1] in UNET_MIDDLE:
            stem = f"middle_block.{UNET_MIDDLE[match[1]]}"
            yield from _unet_layer(stem, match[2], match[3], kind)
    elif match := re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module
    ):
        side, block, layer_kind, layer, rest = match.groups()
        number = int(block) * (layers + 1) + int(layer)
        stem = f"input_blocks.{1 + number}" if side == "down" else f"output_blocks.{number}"
        position = 0 if layer_kind == "resnets" else 1
        yield from _unet_layer(f"{stem}.{position}", layer_kind, rest, kind)
    elif match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", module):
        yield Place(f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{kind}")
    elif match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", module):
        block = int(match[1])
        stem = f"output_blocks.{block * (layers + 1) + layers}"
        if attended is None or attended[block]:
            yield Place(f"{stem}.2.conv.{kind}")  # after a resnet and an attention
        if attended is None or not attended[block]:
            yield Place(f"{stem}.1.conv.{kind}")  # after a resnet


def _unet_layer(stem: str, layer_kind: str, rest: str, kind: str) -> Iterator[Place]:
    if layer_kind == "resnets":
        if rest in UNET_RESNET:
            yield Place(f"{stem}.{UNET_RESNET[rest]}.{kind}")
    elif rest in UNET_ATTENTION or rest.startswith("transformer_blocks."):
        yield Place(f"{stem}.{rest}.{kind}")


def vae_places(name: str, levels: int) -> Iterator[Place]:
    """An autoencoder's parameter.

    The decoder's levels are counted from the image side, diffusers' up blocks from the latents.
    """
    module, _, kind = name.rpartition(".")
    half, _, rest = module.partition(".")
    if module in ("quant_conv", "post_quant_conv"):
        yield Place(name)
    elif half not in ("encoder", "decoder"):
        return
    elif rest in VAE_TOP:
        yield Place(f"{half}.{VAE_TOP[rest]}.{kind}")
    elif match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)", rest):
        side, block, layer, part = match.groups()
        if part in VAE_RESNET:
            level = _vae_level(side, int(block), levels)
            yield Place(f"{half}.{side}.{level}.block.{layer}.{VAE_RESNET[part]}.{kind}")
    elif match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.\1samplers\.0\.conv", rest):
        level = _vae_level(match[1], int(match[2]), levels)
        yield Place(f"{half}.{match[1]}.{level}.{match[1]}sample.conv.{kind}")
    elif match := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(\w+)", rest):
        if match[2] in VAE_RESNET:
            yield Place(f"{half}.mid.block_{int(match[1]) + 1}.{VAE_RESNET[match[2]]}.{kind}")
    elif rest.startswith("mid_block.attentions.0."):
        layer = rest.removeprefix("mid_block.attentions.0.")
        if layer in VAE_ATTENTION:
            key = f"{half}.mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
            yield Place(key, convolution=kind == "weight" and layer != "group_norm")


def _vae_level(side: str, block: int, levels: int) -> int:
    return block if side == "down" else levels - 1 - block


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
        """The diffusers components in the file: name → prefix of their keys, places of a parameter
        behind it.
        """
        known: dict[str, tuple[str, Callable[[str], Iterator[Place]]]] = {}
        match self.architecture:
            case "sd1":
                known["text_encoder"] = (CLIP, clip_places)
            case "sd2":
                known["text_encoder"] = (OPEN_CLIP, open_clip_places)
            case "sdxl":
                known["text_encoder"] = (CLIP_XL, clip_places)
                known["text_encoder_2"] = (OPEN_CLIP_XL, open_clip_places)
        known["unet"] = (DENOISER, lambda name: unet_places(name, self.layers))
        known["vae"] = (VAE, lambda name: vae_places(name, self.vae_levels))
        return {name: entry for name, entry in known.items() if self._any(entry[0])}

    @cached_property
    def layers(self) -> int:
        """The denoiser's layers_per_block: as many input blocks are between block 0 and the first
        downsampler.
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
        """Where a component's parameter is; None if the file does not have it.

        Args:
            parameter: as diffusers or transformers name it.
        """
        if component not in self.components:
            return None
        prefix, places = self.components[component]
        candidates = (place.behind(prefix) for place in places(parameter))
        return next((place for place in candidates if place.key in self.keys), None)

    def copies(self, key: str) -> list[str]:
        """The keys of the same tensor's running averages, for loaders that ask for these."""
        averaged = averaged_key(key)
        return [averaged] if averaged is not None and averaged in self.keys else []

    def _any(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.keys)

    def _numbers(self, prefix: str) -> set[int]:
        return {
            int(key.removeprefix(prefix).partition(".")[0])
            for key in self.keys
            if key.startswith(prefix)
        }


def averaged_key(key: str) -> str | None:
    """The key of a denoiser tensor's running average, None for other tensors.

    It has no dots, because PyTorch allows none in a buffer's name.
    """
    if not key.startswith(DENOISER):
        return None
    return EMA + key.removeprefix("model.").replace(".", "")


class Layout:
    """Where the parameters of one pipeline go in a single file.

    Args:
        pipeline: its class, from model_index.json.
        configs: each component's config.json.
    Raises:
        ModelError: export.no-single-file: pipelines of this family have no such form, or not one
            that is known here.
    """

    def __init__(self, pipeline: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
        if pipeline not in (*CLASSIC, *XL):
            raise _not_possible(f"a {pipeline} has no single-file form that forget can write")
        self.xl = pipeline in XL
        self.configs = configs
        self.components = ("text_encoder", *["text_encoder_2"] * self.xl, "unet", "vae")
        up_blocks = configs["unet"].get("up_block_types", ())
        blocks = {*configs["unet"].get("down_block_types", ()), *up_blocks}
        layers = configs["unet"].get("layers_per_block", 2)
        if not blocks <= UNET_BLOCKS or not isinstance(layers, int):
            strange = (
                ", ".join(sorted(map(str, blocks - UNET_BLOCKS))) or f"{layers} layers a block"
            )
            raise _not_possible(f"the original code has no UNet with {strange}")
        self.layers = layers
        self.attended = [kind == "CrossAttnUpBlock2D" for kind in up_blocks]

    def place(self, component: str, parameter: str) -> Place | None:
        """Where a parameter goes; None for a buffer that the single file does not have.

        Args:
            parameter: as in the component's own file.
        Raises:
            ModelError: export.no-single-file: the original code has no such parameter.
        """
        prefix, places = self._places(component, parameter)
        place = next(places, None)
        if place is not None:
            return place.behind(prefix)
        if parameter.endswith("position_ids"):
            return None
        raise _not_possible(f"the original code has no place for '{parameter}' of {component}")

    def _places(self, component: str, parameter: str) -> tuple[str, Iterator[Place]]:
        config = self.configs[component]
        if component == "unet":
            return DENOISER, unet_places(parameter, self.layers, self.attended)
        if component == "vae":
            return VAE, vae_places(parameter, len(config["block_out_channels"]))
        # Loaders know one form of each encoder, whatever its activation: those of XL by their
        # number, those of 1.x and 2.x by the family, which the denoiser's projections tell.
        if self.xl and component == "text_encoder_2":
            return OPEN_CLIP_XL, open_clip_places(parameter)
        if self.xl:
            return CLIP_XL, clip_places(parameter)
        if config.get("hidden_act") == "gelu" and self.configs["unet"].get("use_linear_projection"):
            return OPEN_CLIP, open_clip_places(parameter)
        return CLIP, clip_places(parameter)


def _not_possible(what: str) -> ModelError:
    return ModelError("export.no-single-file", what, "export it as delta, lora or diffusers")
