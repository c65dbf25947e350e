"""The cost of a denoiser's layers for one image: counted from their weights' shapes, without
loading any.

torch's FlopCounterMode counts the same (tests/pipeline/test_inspect.py compares them), but it needs
the network in memory. It gives neither the layers' sizes, on which the speed is measured, nor the
number of their output values.
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

# Layers that run once for an image: their input is its time, its size or the prompt's summary.
ONCE = (
    "time_embedding",
    "add_embedding",
    "time_emb_proj",
    "time_text_embed",
)
# Layers of a transformer that read the text tokens.
OF_TEXT = ("context_embedder", "ff_context", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(frozen=True)
class Layer:
    """One layer of the denoiser, at the resolution at which it runs.

    Attributes:
        shape: shape of its weight: (outputs, inputs) or (outputs, inputs, h, w).
        side: side of a convolution's output in pixels; 0 for other layers.
        rows: tokens that a linear layer reads; 0 for other layers.
        flops: operations for one image. A multiplication and an addition are two.
        values: number of its output values, those of attention included.
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
        """A linear layer.

        Args:
            asks: for a layer that computes attention queries: the number of queries, else 0.
            seen: the number of keys that each of them attends to.
        """
        outputs = shape[0]
        # Attention takes two products: of queries and keys (asks × outputs by outputs × seen), and
        # of scores and values (asks × seen by seen × outputs).
        return Layer(
            shape, 0, rows, 2 * rows * math.prod(shape) + 4 * asks * seen * outputs, rows * outputs
        )


def denoiser_layers(base: Base, largest_side: int | None = None) -> list[Layer]:
    """The layers of a UNet or a transformer, for one image of the model's native size.

    Empty for other denoisers.

    Args:
        largest_side: limit of the latents' height and width; None: the native size.
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
                and (layer := kind(key.split("."), shape, config, model, largest_side))
            ]
    return []


def _of_unet(
    parts: list[str],
    shape: tuple[int, ...],
    config: dict,
    model: LoadedModel,
    largest_side: int | None,
) -> Layer:
    levels = len(config["block_out_channels"])
    level = {
        "down_blocks": lambda: int(parts[1]),
        "mid_block": lambda: levels - 1,
        "up_blocks": lambda: levels - 1 - int(parts[1]),
    }.get(parts[0], lambda: 0)()
    level += 1 if "downsamplers" in parts else -1 if "upsamplers" in parts else 0
    # The side of a square with as many pixels: a UNet's native images may be wider than high.
    latents = [min(each, largest_side or each) for each in sides(config["sample_size"])]
    side = math.ceil(math.sqrt(math.prod(latents)) / 2**level)
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
    parts: list[str],
    shape: tuple[int, ...],
    config: dict,
    model: LoadedModel,
    largest_side: int | None,
) -> Layer:
    """A layer of Stable Diffusion 3 or Flux: text tokens and image patches attend to both."""
    # Only these families have a patch size and a context length.
    transformer: Any = model
    native = transformer.latent_shape[1]
    side = min(native, largest_side or native) // transformer.PATCH
    patches = side**2
    text = transformer.context_length
    if len(shape) == 4:  # the layer that cuts the image into patches
        return Layer.convolution(shape, side)
    both = parts[0] == "single_transformer_blocks"
    # norm1.linear computes scale and shift from the time.
    once = parts[0] in ONCE or parts[-2] == "linear"
    rows = 1 if once else text + patches if both else text if set(OF_TEXT) & set(parts) else patches
    if parts[-2] != "to_q":
        return Layer.linear(shape, rows)
    # attn2 attends within the image only.
    asks = patches if "attn2" in parts else text + patches
    return Layer.linear(shape, rows, asks=asks, seen=asks)
