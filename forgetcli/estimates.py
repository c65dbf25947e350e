"""What an edit will need: counted from the weights' shapes, and turned into seconds by a short measurement on this machine.

Every figure is an estimate. Floating-point operations are counted exactly for convolutions, linear layers and attention; how fast
they go is measured on the denoiser's own heaviest layers; what the descent keeps for its gradients is a measured multiple of what
the layers put out.
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import components, memory, patching
from forgetcli.inspection import Inspection

if TYPE_CHECKING:
    import torch

    from forgetcli.checkpoint import Base

TOKENS = 77                                                           # positions of a CLIP text encoder, if its config does not say
# Values saved for the gradient for each that a layer puts out: measured on the embedded model's UNet, by saved_tensors_hooks.
KEPT = 1.6
CHECKED = 12                                                          # prompts of each kind in the check after the edit, and the …
CHECK_STEPS = 5                                                       # … sampler's steps for each; see `forgetcli.check`
SAMPLE = 0.15                                                         # seconds that each layer is timed for
BASIS = "counted from the weights' shapes; speed measured here in under a second on the denoiser's heaviest layers"


@dataclass(frozen=True)
class Work:
    """What a method asks of a model; a method says so in ``work(recipe, parameters)``, if it can.

    Attributes:
        encoded: prompts through the text encoder, once each; those whose second moments are cached included.
        predictions: the denoiser's, without gradients.
        descents: its predictions with gradients. batch: how many of them at a time.
        moments: prompts of `encoded` that cached second moments save.
    """

    encoded: int = 0
    predictions: int = 0
    descents: int = 0
    batch: int = 0
    moments: int = 0


@dataclass(frozen=True)
class Layer:
    """One layer of the denoiser, at the size that its pictures have there.

    Attributes:
        shape: its weight's: (outputs, inputs) or (outputs, inputs, h, w).
        side: of what a convolution puts out, 0 for others. rows: tokens that a linear layer reads, 0 for others.
        flops: for one picture; a multiplication and an addition are two. values: that it puts out, with attention's.
    """

    shape: tuple[int, ...]
    side: int
    rows: int
    flops: int
    values: int


def estimate(base: Base, found: Inspection, work: Work | None, *, device: torch.device, dtype: torch.dtype, cached: int, of: int,
             decomposed: tuple[int, ...], hashing: float) -> dict[str, Any]:
    """Seconds, bytes of memory and of disk.

    Args:
        found: what `inspect` says of the base.
        cached, of: how many of the second moments are cached; a site may need several.
        decomposed: their dimensions, all of them.
        hashing: seconds that the base's digests took just now.
    Returns:
        JSON-able; a figure that cannot be estimated is None.
    """
    sizes = {c.name: c.parameters * dtype.itemsize for c in found.components if c.parameters}
    encoders = sum(size for name, size in sizes.items() if name.startswith("text_encoder"))
    disk = sum(path.stat().st_size for path in patching.sources(base))
    moments = sum(8 * d * d for d in decomposed) * (of - cached) // max(len(decomposed), 1)
    result = {"basis": BASIS, "device": device.type, "dtype": str(dtype).removeprefix("torch."), "seconds": None, "memory_bytes": None,
              "disk_bytes": disk, "cache_bytes": moments, "denoiser_flops": None}
    layers = denoiser_layers(base) if work else []
    if not layers:
        return result
    speed = Speed.measured(layers, device, dtype)
    pictures = work.predictions + 2 * work.descents + checked()       # a gradient costs as much again as the prediction
    encoded = work.encoded - (work.moments if of and cached == of else 0)
    spent = (pictures * speed.seconds(layers) + encoded * encoder_flops(base, found) / speed.linear + 2 * hashing
             + sum(map(eigh_seconds, decomposed)))
    kept = KEPT * sum(layer.values for layer in layers) * work.batch * dtype.itemsize
    needed = encoders + sizes["unet"] + kept + sum(8 * d * d for d in decomposed)
    return result | {"seconds": round(spent, 1), "memory_bytes": int(needed + (memory.peak_rss() or 0)),
                     "denoiser_flops": sum(layer.flops for layer in layers)}


def checked() -> int:
    """Predictions of the check after the edit: noisy pictures without guidance; then four for concepts, two for what is preserved."""
    return 2 * CHECKED * CHECK_STEPS + (4 + 2) * CHECKED


def denoiser_layers(base: Base) -> list[Layer]:
    """The layers of a UNet, for one picture of the size that it was made for; none for other denoisers."""
    path = base.settings / "unet" / "config.json"
    if not path.is_file():
        return []
    config, tokens = json.loads(path.read_text(encoding="utf-8")), _tokens(base.settings)
    return [layer for key, shape in components.shapes(base, "unet").items()
            if key.endswith(".weight") and len(shape) in (2, 4)
            and (layer := _layer(key, shape, config["sample_size"], len(config["block_out_channels"]), tokens))]


def _layer(key: str, shape: tuple[int, ...], size: int, levels: int, tokens: int) -> Layer:
    parts = key.split(".")
    level = {"down_blocks": lambda: int(parts[1]), "mid_block": lambda: levels - 1, "up_blocks": lambda: levels - 1 - int(parts[1])
             }.get(parts[0], lambda: 0)()
    level += 1 if "downsamplers" in parts else -1 if "upsamplers" in parts else 0
    side = math.ceil(size / 2**level)
    outputs, inputs = shape[0], math.prod(shape[1:])
    if len(shape) == 4:
        return Layer(shape, side, 0, 2 * side * side * outputs * inputs, side * side * outputs)
    context = "attn2" in parts and parts[-2] in ("to_k", "to_v")
    rows = tokens if context else 1 if parts[0] in ("time_embedding", "add_embedding") or "time_emb_proj" in parts else side * side
    flops, values = 2 * rows * outputs * inputs, rows * outputs
    if parts[-2] == "to_q":                                           # scores and their use: two products of (rows × seen) by (rows × outputs)
        flops += 4 * rows * (tokens if "attn2" in parts else rows) * outputs
    return Layer(shape, 0, rows, flops, values)


def encoder_flops(base: Base, found: Inspection) -> int:
    """Of one prompt through all text encoders, embeddings not counted."""
    names = [c.name for c in found.components if c.parameters and c.name.startswith("text_encoder")]
    return sum(2 * _tokens(base.settings) * math.prod(shape) for name in names
               for key, shape in components.shapes(base, name).items() if len(shape) == 2 and "embed" not in key)


def _tokens(folder: Path) -> int:
    path = folder / "text_encoder" / "config.json"
    config: Mapping = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config.get("max_position_embeddings", TOKENS)


@dataclass(frozen=True)
class Speed:
    """Floating-point operations a second, in convolutions and in linear layers."""

    convolution: float
    linear: float

    @staticmethod
    def measured(layers: Sequence[Layer], device: torch.device, dtype: torch.dtype) -> Speed:
        """Of the heaviest layer of either kind, with two pictures at a time, as guidance has it."""
        import torch

        from torch.nn.functional import conv2d, linear

        conv = max((layer for layer in layers if layer.side), key=lambda layer: layer.flops)
        dense = max((layer for layer in layers if layer.rows), key=lambda layer: layer.rows * math.prod(layer.shape))
        pictures, kernels = (torch.ones(shape, device=device, dtype=dtype)
                             for shape in ((2, conv.shape[1], conv.side, conv.side), conv.shape))
        tokens, weight = (torch.ones(shape, device=device, dtype=dtype) for shape in ((2 * dense.rows, dense.shape[1]), dense.shape))
        return Speed(2 * conv.flops / _seconds(lambda: conv2d(pictures, kernels, padding=conv.shape[-1] // 2), device),
                     4 * dense.rows * math.prod(dense.shape) / _seconds(lambda: linear(tokens, weight), device))

    def seconds(self, layers: Sequence[Layer]) -> float:
        """That one picture takes in these layers."""
        return sum(layer.flops / (self.convolution if layer.side else self.linear) for layer in layers)


def eigh_seconds(dimension: int, probe: int = 384) -> float:
    """Of a float64 decomposition on the CPU, from a smaller one: the cost grows with the cube."""
    import torch

    size = min(dimension, probe)
    matrix = torch.eye(size, dtype=torch.float64) + 1 / torch.arange(1, size * size + 1, dtype=torch.float64).reshape(size, size)
    return _seconds(lambda: torch.linalg.eigh(matrix + matrix.T), None) * (dimension / size) ** 3


def _seconds(run: Callable[[], Any], device: torch.device | None) -> float:
    """The median of a few runs, after one to warm up."""
    import torch

    def once() -> float:
        started = time.perf_counter()
        run()
        if device is not None and device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter() - started

    with torch.no_grad():
        once()
        times, until = [once()], time.perf_counter() + SAMPLE
        while time.perf_counter() < until:
            times.append(once())
    return sorted(times)[len(times) // 2]
