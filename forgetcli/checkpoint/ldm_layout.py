"""Where a diffusers pipeline's parameters lie in a checkpoint of one file, in the names of the
original code (LDM).

Pure: from a component's settings and a parameter's name to a key. Stable Diffusion 1.x, 2.x and XL:
the text encoders in
CLIP's and in OpenCLIP's layout, the UNet by the arithmetic of its blocks, the VAE.

    UNet, n = layers_per_block:  down block b, layer j → input_blocks.(1 + b(n+1) + j), its
                                 downsampler → the one after;
                                 up block b, layer j → output_blocks.(b(n+1) + j), its upsampler at
                                 the end of the last
    VAE, N blocks:               decoder up block b → decoder.up.(N − 1 − b)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forgetcli.checkpoint.ldm_keys import (
    CLIP,
    CLIP_XL,
    DENOISER,
    OPEN_CLIP,
    OPEN_CLIP_LAYER,
    OPEN_CLIP_TOP,
    OPEN_CLIP_XL,
    UNET_RESNET,
    UNET_TOP,
    VAE,
    VAE_ATTENTION,
)
from forgetcli.errors import ModelError

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
TEXT_ENCODERS = {  # (XL, component) → prefix of CLIP's layout, of OpenCLIP's
    (False, "text_encoder"): (CLIP, OPEN_CLIP),
    (True, "text_encoder"): (CLIP_XL, "conditioner.embedders.0.model."),
    (True, "text_encoder_2"): ("conditioner.embedders.1.transformer.", OPEN_CLIP_XL),
}
MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
VAE_TOP = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class Place:
    """Where a parameter goes.

    Attributes:
        key: in the single file.
        part, parts: which of how many parameters that lie there, one below the other along the
            first axis.
        convolution: a matrix (m, n) is a convolution's kernel (m, n, 1, 1) there.
        transposed: the matrix is transposed there.
    """

    key: str
    part: int = 0
    parts: int = 1
    convolution: bool = False
    transposed: bool = False


class Layout:
    """The layout of one pipeline.

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
        blocks = {
            *configs["unet"].get("down_block_types", ()),
            *configs["unet"].get("up_block_types", ()),
        }
        layers = configs["unet"].get("layers_per_block", 2)
        if not blocks <= UNET_BLOCKS or not isinstance(layers, int):
            strange = (
                ", ".join(sorted(map(str, blocks - UNET_BLOCKS))) or f"{layers} layers a block"
            )
            raise _not_possible(f"the original code has no UNet with {strange}")
        self.stride = layers + 1
        self.attended = [
            kind == "CrossAttnUpBlock2D" for kind in configs["unet"].get("up_block_types", ())
        ]

    def place(self, component: str, parameter: str) -> Place | None:
        """Where a parameter goes; None for a buffer that the file does not have.

        Args:
            parameter: as in the component's own file.
        Raises:
            ModelError: export.no-single-file: the original code has no such parameter.
        """
        match component:
            case "unet":
                place = self._unet(parameter)
            case "vae":
                place = self._vae(parameter)
            case _:
                place = self._text_encoder(component, parameter)
        if place is None and not parameter.endswith("position_ids"):
            raise _not_possible(f"the original code has no place for '{parameter}' of {component}")
        return place

    def _text_encoder(self, component: str, parameter: str) -> Place | None:
        clip, open_clip = TEXT_ENCODERS[self.xl, component]
        parameter = parameter.removeprefix("text_model.")  # files of transformers 5 have no prefix
        if (
            self.configs[component].get("hidden_act") != "gelu"
        ):  # quick_gelu: OpenAI's CLIP, in transformers' own names
            return Place(
                f"{clip}{'' if parameter.startswith('text_projection') else 'text_model.'}{parameter}"
            )
        if parameter == "text_projection.weight":
            return Place(f"{open_clip}text_projection", transposed=True)
        if parameter in OPEN_CLIP_TOP:
            return Place(open_clip + OPEN_CLIP_TOP[parameter])
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", parameter)
        block = f"{open_clip}transformer.resblocks.{match[1]}." if match else ""
        if match and match[2] in QKV:
            return Place(
                f"{block}attn.in_proj_{match[3]}", part=QKV.index(match[2]), parts=len(QKV)
            )
        return (
            Place(f"{block}{OPEN_CLIP_LAYER[match[2]]}.{match[3]}")
            if match and match[2] in OPEN_CLIP_LAYER
            else None
        )

    def _unet(self, parameter: str) -> Place | None:
        module, _, kind = parameter.rpartition(".")
        if module in UNET_TOP:
            return Place(f"{DENOISER}{UNET_TOP[module]}.{kind}")
        match = re.fullmatch(
            r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)",
            module,
        )
        if match:
            side, block, what, layer, rest = (
                match[1],
                int(match[2]),
                match[3],
                int(match[4]),
                match[5],
            )
            at = block * self.stride + layer
            if what == "downsamplers":
                return Place(f"{DENOISER}input_blocks.{(block + 1) * self.stride}.0.op.{kind}")
            if what == "upsamplers":
                return Place(
                    f"{DENOISER}output_blocks.{at + self.stride - 1}.{1 + self.attended[block]}.conv.{kind}"
                )
            place = f"input_blocks.{1 + at}" if side == "down_blocks" else f"output_blocks.{at}"
            return self._unet_layer(f"{place}.{int(what == 'attentions')}", what, rest, kind)
        match = re.fullmatch(r"mid_block\.((resnets|attentions)\.\d+)\.(.+)", module)
        if match and match[1] in MIDDLE:
            return self._unet_layer(f"middle_block.{MIDDLE[match[1]]}", match[2], match[3], kind)
        return None

    def _unet_layer(self, place: str, what: str, rest: str, kind: str) -> Place | None:
        if what == "resnets":
            return (
                Place(f"{DENOISER}{place}.{UNET_RESNET[rest]}.{kind}")
                if rest in UNET_RESNET
                else None
            )
        known = rest in ("norm", "proj_in", "proj_out") or rest.startswith("transformer_blocks.")
        return (
            Place(f"{DENOISER}{place}.{rest}.{kind}") if known else None
        )  # the same names in both

    def _vae(self, parameter: str) -> Place | None:
        module, _, kind = parameter.rpartition(".")
        if module in ("quant_conv", "post_quant_conv"):
            return Place(f"{VAE}{parameter}")
        match = re.fullmatch(r"(encoder|decoder)\.(.+)", module)
        if not match:
            return None
        side, rest = f"{VAE}{match[1]}.", match[2]
        if rest in VAE_TOP:
            return Place(f"{side}{VAE_TOP[rest]}.{kind}")
        match = re.fullmatch(
            r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)\.(\w+)|(down|up)samplers\.0\.conv)", rest
        )
        if match:
            level, last = int(match[2]), len(self.configs["vae"]["block_out_channels"]) - 1
            block = f"{side}{match[1]}.{level if match[1] == 'down' else last - level}"
            if match[5]:
                return Place(f"{block}.{match[5]}sample.conv.{kind}")
            return (
                Place(f"{block}.block.{match[3]}.{VAE_RESNET[match[4]]}.{kind}")
                if match[4] in VAE_RESNET
                else None
            )
        match = re.fullmatch(r"mid_block\.(?:resnets\.(\d+)\.(\w+)|attentions\.0\.(.+))", rest)
        if match and match[2] in VAE_RESNET:
            return Place(f"{side}mid.block_{int(match[1]) + 1}.{VAE_RESNET[match[2]]}.{kind}")
        if match and match[3] in VAE_ATTENTION:
            matrix = kind == "weight" and match[3] != "group_norm"
            return Place(f"{side}mid.attn_1.{VAE_ATTENTION[match[3]]}.{kind}", convolution=matrix)
        return None


def _not_possible(what: str) -> ModelError:
    return ModelError("export.no-single-file", what, "export it as delta, lora or diffusers")
