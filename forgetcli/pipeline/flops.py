"""The cost of a denoiser's layers for one image: counted from their weights' shapes, without
loading any.

torch's FlopCounterMode counts the same (tests/pipeline/test_inspect.py compares them), but it needs
the network in memory, and gives neither the layers' sizes, on which the speed is measured, nor the
number of values that they put out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli.models import components
from forgetcli.models.unet import sides

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel

ONCE = (
    "time_embedding",
    "add_embedding",
    "time_emb_proj",
    "time_text_embed",
)  # read a picture's one time, size or summary
OF_TEXT = ("context_embedder", "ff_context", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(frozen=True)
class Layer:
    """One layer of the denoiser, at the size that its pictures have there.

    Attributes:
        shape: its weight's: (outputs, inputs) or (outputs, inputs, h, w).
        side: of what a convolution puts out, 0 for others. rows: tokens that a linear layer reads,
            0 for others.
        flops: for one picture; a multiplication and an addition are two. values: that it puts out,
            with attention's.
    """

    shape: tuple[int, ...]
    side: int
    rows: int
    flops: int
    values: int

    @staticmethod
    def convolution(shape: tuple[int, ...], side: int) -> Layer:
        return Layer(shape, side, 0, 2 * side * side * math.prod(shape), side * side * shape[0])

    @staticmethod
    def linear(shape: tuple[int, ...], rows: int, asks: int = 0, seen: int = 0) -> Layer:
        """`asks`, `seen`: of a layer that makes an attention's queries, the tokens on either side
        of its scores.
        """
        outputs = shape[
            0
        ]  # scores and their use: two products of (asks × seen) by (seen × outputs)
        return Layer(
            shape, 0, rows, 2 * rows * math.prod(shape) + 4 * asks * seen * outputs, rows * outputs
        )


def denoiser_layers(base: Base) -> list[Layer]:
    """The layers of a UNet or of a transformer, for one picture of the size that it was made for;
    none for other denoisers.
    """
    for name, kind in (("unet", _of_unet), ("transformer", _of_transformer)):
        path = base.settings / name / "config.json"
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            model = models.load(base, device="cpu")
            return [
                layer
                for key, shape in components.shapes(base, name).items()
                if key.endswith(".weight")
                and len(shape) in (2, 4)
                and (layer := kind(key.split("."), shape, config, model))
            ]
    return []


def _of_unet(parts: list[str], shape: tuple[int, ...], config: dict, model: LoadedModel) -> Layer:
    levels = len(config["block_out_channels"])
    level = {
        "down_blocks": lambda: int(parts[1]),
        "mid_block": lambda: levels - 1,
        "up_blocks": lambda: levels - 1 - int(parts[1]),
    }.get(parts[0], lambda: 0)()
    level += 1 if "downsamplers" in parts else -1 if "upsamplers" in parts else 0
    # Of a square with as many pixels: a UNet may be made for images that are wider than high.
    side = math.ceil(math.sqrt(math.prod(sides(config["sample_size"]))) / 2**level)
    if len(shape) == 4:
        return Layer.convolution(shape, side)
    text = model.positions("text_encoder")
    pixels = side * side
    rows = (
        text
        if "attn2" in parts and parts[-2] in ("to_k", "to_v")
        else 1
        if set(ONCE) & set(parts)
        else pixels
    )
    if parts[-2] != "to_q":
        return Layer.linear(shape, rows)
    return Layer.linear(shape, rows, asks=rows, seen=text if "attn2" in parts else rows)


def _of_transformer(
    parts: list[str], shape: tuple[int, ...], config: dict, model: LoadedModel
) -> Layer:
    """A layer of Stable Diffusion 3 or Flux: text tokens and image patches attend to both."""
    # Only these families have a patch size and a context length.
    transformer: Any = model
    side = transformer.latent_shape[1] // transformer.PATCH
    patches = side**2
    text = transformer.context_length
    if len(shape) == 4:  # the layer that cuts the image into patches
        return Layer.convolution(shape, side)
    both = parts[0] == "single_transformer_blocks"
    once = (
        parts[0] in ONCE or parts[-2] == "linear"
    )  # norm1.linear: scale and shift of a picture's time
    rows = 1 if once else text + patches if both else text if set(OF_TEXT) & set(parts) else patches
    if parts[-2] != "to_q":
        return Layer.linear(shape, rows)
    asks = patches if "attn2" in parts else text + patches  # attn2 is of the picture alone
    return Layer.linear(shape, rows, asks=asks, seen=asks)
