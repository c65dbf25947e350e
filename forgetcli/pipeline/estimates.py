"""Estimates of what an edit needs: counted from the weights' shapes, and turned into seconds by a
short measurement on this machine.

Floating-point operations are counted exactly for convolutions, linear layers and attention. Their
speed is measured on the denoiser's own heaviest layers. The memory for gradients is a measured
multiple of the size of the layers' outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from forgetcli.artifact import ledger_extension, patch
from forgetcli.editing import check_limits
from forgetcli.editing.cost import Cost
from forgetcli.editing.decompositions import SMALLEST_WIDTH
from forgetcli.models import components
from forgetcli.models.offload import DeviceNeeds
from forgetcli.pipeline import memory
from forgetcli.pipeline.flops import Layer, denoiser_layers
from forgetcli.pipeline.inspect import Inspection
from forgetcli.storage.safetensors import ITEM_BITS

if TYPE_CHECKING:
    import torch

    from forgetcli.models.base import LoadedModel
    from forgetcli.models.tokens import TokenBatch
    from forgetcli.pipeline.inspect import EditableSite

# Values saved for the gradient, per output value of a layer. Measured on the embedded model's UNet
# with saved_tensors_hooks.
SAVED_PER_OUTPUT = 1.6
# Time and memory of a process before it loads its first network, measured by
# benchmarks/estimates.py. The bytes are those beyond a dry run's.
START_SECONDS = 6.0
START_BYTES = 200_000_000
# Time of the whole network relative to that of its matrix products, measured likewise.
NETWORK_OVERHEAD = 1.6
# Float64 arrays of the size of a site's merged keys, measured likewise.
KEY_COPIES = 3
TIMING_SECONDS = 0.15
BASIS = (
    "counted from the weights' shapes; "
    "speed measured here in under a second on the denoiser's heaviest layers"
)


@dataclass(frozen=True)
class Task:
    """The properties of an edit that are known before any weight is read.

    Attributes:
        cost: the work that the method asks of the model; None if it does not say.
        concepts: the concept prompts' tokens.
        together: concept prompts that one step of the optimisation encodes.
        sites: layers whose second moments are decomposed; none for methods without.
        cached, of: second moments that are cached, and all that are needed; a site may need
            several.
        hashing: seconds that hashing the base took just now.
    """

    cost: Cost | None
    concepts: TokenBatch
    together: int
    sites: Sequence[EditableSite]
    cached: int
    of: int
    hashing: float

    @property
    def moment_bytes(self) -> int:
        """Bytes of one second moment of each site, float64."""
        return sum(8 * site.shape[1] ** 2 for site in self.sites)

    @property
    def all_cached(self) -> bool:
        """Whether all second moments are cached. Then their eigendecompositions are taken to be
        cached as well: an edit with the same preserve prompts stored both.
        """
        return bool(self.of) and self.cached == self.of

    @property
    def cache_growth(self) -> int:
        """Bytes of the second moments and eigendecompositions that are not cached yet."""
        if self.all_cached:
            return 0
        moments = self.moment_bytes * (self.of - self.cached) // max(len(self.sites), 1)
        return moments + sum(
            8 * site.shape[1] * (site.shape[1] + 1)
            for site in self.sites
            if site.shape[1] >= SMALLEST_WIDTH
        )


@dataclass(frozen=True)
class Needs:
    """What an edit needs. A figure that cannot be estimated is None.

    Attributes:
        basis: how the figures were found, in words.
        device, dtype: where and in which dtype the model runs.
        seconds: of the whole edit.
        memory_bytes: the process's peak.
        disk_bytes: of the edited folder; less where files can be shared.
        cache_bytes: what the cache grows by.
        denoiser_flops: of one prediction.
        device_bytes: memory on a GPU with all networks there.
        offloaded_bytes: the same with one network there at a time; None for a method that needs
            text encoders and denoiser together.
    """

    basis: str
    device: str
    dtype: str
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int
    cache_bytes: int
    denoiser_flops: int | None
    device_bytes: int
    offloaded_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(model: LoadedModel, found: Inspection, task: Task) -> Needs:
    """Estimate time, memory and disk of an edit, in a process that does nothing else.

    Args:
        model: the model; none of its weights is read.
        found: the description of its base by `inspect`.
    """
    disk = sum(path.stat().st_size for path in patch.sources(model.base))
    disk += sum(_ledger(site, task.concepts) for site in task.sites)
    on_device = DeviceNeeds.of(network_bytes(model, found))
    together = task.cost is None or bool(task.cost.descents)
    result = Needs(
        basis=BASIS,
        device=model.device.type,
        dtype=model.dtype_name,
        seconds=None,
        memory_bytes=None,
        disk_bytes=disk,
        cache_bytes=task.cache_growth,
        denoiser_flops=None,
        device_bytes=on_device.resident,
        offloaded_bytes=None if together else on_device.offloaded,
    )
    layers = denoiser_layers(model.base) if task.cost else []
    if task.cost is None or not layers:
        return result
    flops, values = encoder_cost(model, found)
    speed = Speed.measured(layers, model.device, model.dtype)
    outputs = sum(layer.values for layer in layers) * task.cost.batch + values * task.together
    return replace(
        result,
        seconds=round(_seconds_needed(task, task.cost, speed, model, found, layers, flops), 1),
        memory_bytes=int(_memory_needed(model, found, task, outputs)),
        denoiser_flops=sum(layer.flops for layer in layers),
    )


def _seconds_needed(
    task: Task,
    cost: Cost,
    speed: Speed,
    model: LoadedModel,
    found: Inspection,
    layers: Sequence[Layer],
    encoder_flops: int,
) -> float:
    # A gradient costs as much again as the prediction.
    predictions = cost.predictions + 2 * cost.descents
    (denoiser,) = [c for c in found.components if c.name == model.DENOISER]
    check = checked(denoiser.parameters or 0) * speed.seconds(
        denoiser_layers(model.base, check_limits.LARGEST_SIDE)
    )
    encoded = cost.encoded - (cost.moments if task.all_cached else 0)
    return (
        START_SECONDS
        + NETWORK_OVERHEAD
        * (predictions * speed.seconds(layers) + check + encoded * encoder_flops / speed.linear)
        + 2 * task.hashing
        + sum(_solving(site, task, speed) for site in task.sites)
    )


def _memory_needed(model: LoadedModel, found: Inspection, task: Task, outputs: int) -> float:
    """Bytes of memory. `outputs`: the number of output values of layers that gradients pass."""
    itemsize = model.dtype.itemsize
    networks = sum(network_bytes(model, found).values())
    keys = sum(
        8 * site.shape[1] * (KEY_COPIES * len(own.first) + own.ids.numel())
        for site in task.sites
        for own in [task.concepts.of(site.component)]
    )
    return (
        (memory.peak_rss() or 0)
        + START_BYTES
        + networks
        + SAVED_PER_OUTPUT * itemsize * outputs
        + keys
        # K₀K₀ᵀ, its eigenvectors, and the second moment of the vocabulary.
        + 3 * task.moment_bytes
    )


def network_bytes(model: LoadedModel, found: Inspection) -> dict[str, int]:
    """Bytes of the text encoders and the denoiser in memory, by component."""
    sizes = {}
    for component in found.components:
        encodes = component.name.startswith("text_encoder")
        if component.parameters and (encodes or component.name == model.DENOISER):
            dtype = model.encoder_dtype if encodes else model.dtype
            sizes[component.name] = dtype.itemsize * component.parameters
    return sizes


def _ledger(site: EditableSite, concepts: TokenBatch) -> int:
    """Bytes in the ledger for a site: change, base weight, and the concept prompts' keys or their
    moment.
    """
    weight = math.prod(site.shape)
    width = site.shape[1]
    wide = site.dtype in ledger_extension.WIDE
    keys = min(4 * width * len(concepts.of(site.component).first), 4 * width * (width + 1))
    return weight * (8 if wide else 4) + weight * ITEM_BITS[site.dtype] // 8 + keys


def _solving(site: EditableSite, task: Task, speed: Speed) -> float:
    """Seconds of one site's algebra in float64: the decomposition of the second moment, unless it
    is cached, as much work again in the null space, and products with the keys.
    """
    width = site.shape[1]
    distinct = len(task.concepts.of(site.component).first)
    known = task.all_cached and width >= SMALLEST_WIDTH
    products = 4 * distinct * width * width / (speed.linear / 2)
    return (1 if known else 2) * eigh_seconds(width) + products


def checked(parameters: int) -> int:
    """Denoiser predictions in the check after the edit: those that make the noisy images, without
    guidance, each on average to half of its steps; then four for each concept prompt and two for
    each preserve prompt.

    Args:
        parameters: of the denoiser.
    """
    prompts = check_limits.prompts_of(parameters)
    return prompts * (check_limits.STEPS - 1) + (4 + 2) * prompts


def encoder_cost(model: LoadedModel, found: Inspection) -> tuple[int, int]:
    """The work of all text encoders for one prompt, without embeddings.

    Returns:
        Floating-point operations, and the number of the layers' output values.
    """
    flops = values = 0
    for component in found.components:
        if component.parameters and component.name.startswith("text_encoder"):
            tokens = model.positions(component.name)
            matrices = [
                shape
                for key, shape in components.shapes(model.base, component.name).items()
                if len(shape) == 2
                and not any(part in key for part in ("embed", "shared", "relative"))
            ]
            flops += 2 * tokens * sum(map(math.prod, matrices))
            values += tokens * sum(shape[0] for shape in matrices)
    return flops, values


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per second, in convolutions and in linear layers."""

    convolution: float
    linear: float

    @staticmethod
    def measured(layers: Sequence[Layer], device: torch.device, dtype: torch.dtype) -> Speed:
        """Measure the heaviest layer of either kind, with a batch of two images, as guidance uses.

        Without convolutions, their speed is that of linear layers.
        """
        import torch
        from torch.nn.functional import conv2d, linear

        dense = max(
            (layer for layer in layers if layer.rows),
            key=lambda layer: layer.rows * math.prod(layer.shape),
        )
        tokens, weight = (
            torch.ones(shape, device=device, dtype=dtype)
            for shape in ((2 * dense.rows, dense.shape[1]), dense.shape)
        )
        flat = (
            4
            * dense.rows
            * math.prod(dense.shape)
            / _seconds(lambda: linear(tokens, weight), device)
        )
        conv = max(
            (layer for layer in layers if layer.side), key=lambda layer: layer.flops, default=None
        )
        if conv is None:
            return Speed(flat, flat)
        images, kernels = (
            torch.ones(shape, device=device, dtype=dtype)
            for shape in ((2, conv.shape[1], conv.side, conv.side), conv.shape)
        )
        return Speed(
            2
            * conv.flops
            / _seconds(lambda: conv2d(images, kernels, padding=conv.shape[-1] // 2), device),
            flat,
        )

    def seconds(self, layers: Sequence[Layer]) -> float:
        """Seconds that these layers take for one image."""
        return sum(
            layer.flops / (self.convolution if layer.side else self.linear) for layer in layers
        )


@cache  # sites mostly have one width
def eigh_seconds(dimension: int, probe: int = 384) -> float:
    """Seconds of a float64 eigendecomposition on the CPU.

    Extrapolated from a smaller one: the cost grows with the cube of the dimension.
    """
    import torch

    size = min(dimension, probe)
    matrix = torch.eye(size, dtype=torch.float64) + 1 / torch.arange(
        1, size * size + 1, dtype=torch.float64
    ).reshape(size, size)
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
        times = [once()]
        until = time.perf_counter() + TIMING_SECONDS
        while time.perf_counter() < until:
            times.append(once())
    return sorted(times)[len(times) // 2]
