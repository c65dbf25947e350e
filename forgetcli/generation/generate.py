"""Seeded, resumable generation of images.

Each image has its own random generator on the CPU, so it depends on its prompt and seed, but not on
its batch. The PNG's metadata record how the image was generated (its origin). An existing image
with the requested origin is not generated again.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.display import Captioned, Result, Shown
from forgetcli.errors import ForgetError, counted
from forgetcli.generation.grid import write_grid
from forgetcli.generation.image_cache import ImageCache
from forgetcli.generation.images import (
    GeneratedImage,
    ImageRequest,
    fingerprint,
    has_origin,
    png_bytes,
    refuse_too_many,
)
from forgetcli.generation.text_to_image import text_to_image
from forgetcli.models import offload as offloading
from forgetcli.models.tokens import cut_prompts
from forgetcli.models.unet import sides
from forgetcli.process.device import AUTO
from forgetcli.process.distributed import Processes
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from PIL.Image import Image

    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel

# The default guidance scale of small models such as the embedded one. Other models have the default
# of their family.
GUIDANCE = 4.5
SMALL = 64  # pixels along one side of the largest images of a small model
MOST_NOTES = 3  # notes on prompts that are too long, in one run
SHOWN_CHARACTERS = 40  # of a prompt, in such a note
SINGLE_PROCESS = Processes()


@dataclass(frozen=True, repr=False)
class GenerateResult(Result):
    """The result of `generate`.

    Attributes:
        images: the images, sorted by prompt and then by seed.
        grid: the PNG with the grid; None if no grid was requested.
        reused: the number of images that existed already, including the base model's images.
        seconds: duration of each stage.
    """

    images: tuple[GeneratedImage, ...]
    grid: Path | None
    reused: int
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The keys of ``generate --json``."""
        return {
            "images": [image.as_dict() for image in self.images],
            "grid": str(self.grid) if self.grid else None,
            "reused": self.reused,
            "seconds": dict(self.seconds),
        }

    def shown(self) -> Shown:
        folders = ", ".join(dict.fromkeys(str(image.path.parent) for image in self.images))
        pictures: list[Captioned] = []
        for image in self.images:
            if image.base:
                pictures.append(Captioned(image.base, f"{image.prompt} (base model)"))
            pictures.append(Captioned(image.path, f"{image.prompt}, seed {image.seed}"))
        reused = f", {self.reused} of them made before" if self.reused else ""
        return Shown(
            f"{counted(len(pictures), 'image')} in {folders}{reused}", images=tuple(pictures)
        )


def generate(
    prompts: Sequence[str],
    *,
    model: str | Path = "demo",
    count: int = 1,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    output: Path | str = "images",
    grid: bool = False,
    compare_base: bool = False,
    config: Path | str | None = None,
    device: str | None = None,
    batch: int = 8,
    width: int | None = None,
    height: int | None = None,
    negative_prompt: str | None = None,
    dtype: str = AUTO,
    offload: str = offloading.AUTO,
    observer: Observer | None = None,
) -> GenerateResult:
    """Generate `count` images for each prompt, at seeds `seed`, `seed + 1`, …

    Args:
        model: `demo`, a diffusers folder, a single file, an edited folder or a hub id.
        steps: the number of sampling steps.
        guidance: the guidance scale. Default: 4.5 for small models, otherwise the family's (7.5 for
            sd).
        output: folder for the images.
        grid: also write `grid.png`, with one row per prompt.
        compare_base: also generate with the base model at the same seeds. The model must be an
            edited folder.
        config: the settings of a single file; see `checkpoint.resolve`.
        batch: images generated at a time.
        width, height: the image size in pixels, multiples of 8; default: the model's own.
        negative_prompt: the prompt that guidance leads away from; default: the empty prompt.
        dtype: the dtype in which the model runs; see `models.image_dtype`.
        offload: whether networks leave a GPU when they are not in use: auto (if they do not fit
            there together), model or none.
    Raises:
        ForgetError: there is no prompt, a model cannot be loaded, or generate.too-many.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    stripped = _stripped(prompts)
    refuse_too_many(len(stripped), count)
    requests = [
        ImageRequest(
            prompt,
            seed + k,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
            negative=negative_prompt,
        )
        for prompt in stripped
        for k in range(count)
    ]
    resolved = checkpoint.resolve(model, config=config)
    # The base model may be missing. It is resolved before anything is generated, to fail early.
    base = EditedModel(resolved.folder).manifest.resolve_base() if compare_base else None
    base_paths: Sequence[Path | None] = [None] * len(requests)
    settings: dict[str, Any] = {
        "device": device,
        "batch": batch,
        "observer": observer,
        "dtype": dtype,
        "offload": offload,
    }
    with watch.stage("generate"):
        paths, reused = generate_images(resolved, requests, output, **settings)
        if base is not None:
            base_paths, base_reused = generate_images(base, requests, output / "base", **settings)
            reused += base_reused
    images = tuple(
        GeneratedImage(path, request.prompt, request.seed, base=base_path)
        for path, request, base_path in zip(paths, requests, base_paths)
    )
    grid_path = None
    if grid or compare_base:
        grid_path = output / "grid.png"
        write_grid(images, count, grid_path)
    observer.done()
    return GenerateResult(images, grid_path, reused, watch.report())


def _stripped(prompts: Sequence[str]) -> list[str]:
    """The prompts without surrounding white space. Empty prompts are left out.

    Raises:
        ForgetError: generate.no-prompt: no prompt is left.
    """
    stripped = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not stripped:
        raise ForgetError(
            "generate.no-prompt",
            "there is no prompt",
            "give a prompt, or a file of prompts with --prompts",
        )
    return stripped


def generate_images(
    base: Base,
    requests: Sequence[ImageRequest],
    folder: Path,
    *,
    device: str | None,
    batch: int,
    observer: Observer,
    processes: Processes = SINGLE_PROCESS,
    dtype: str = AUTO,
    offload: str = offloading.AUTO,
    cache: ImageCache | None = None,
) -> tuple[list[Path], int]:
    """Generate the requested images in `folder`.

    Images are generated in fixed batches. If any image of a batch is missing, the whole batch is
    regenerated, so that a resumed run is byte-identical to an uninterrupted one. With several
    processes, each process generates some of the batches. All images exist when the function
    returns.

    Args:
        base: the model.
        batch: images generated at a time.
        dtype: the dtype in which the model runs; see `models.image_dtype`.
        offload: as for `generate`.
        cache: batches that it has are copied, others are added to it.
    Returns:
        the images' paths in the order of `requests`, and the number of images that existed already.
    """
    dtype = models.image_dtype(base, device, dtype)
    origins = [request.origin(base.generation_digest, dtype) for request in requests]
    paths = [
        folder / f"{i:04d}-s{origin['seed']}-{fingerprint(origin)}.png"
        for i, origin in enumerate(origins)
    ]
    exists = [has_origin(path, origin) for path, origin in zip(paths, origins)]
    incomplete = [
        indices
        for indices in batches(requests, batch, processes)
        if not all(exists[i] for i in indices)
    ]
    known = [cache is not None and cache.has([origins[i] for i in part]) for part in incomplete]
    sampler: Sampler | None = None
    if not all(known):
        # The model is loaded before the folder is created, so that no folder is left if that fails.
        sampler = Sampler(base, device, observer, dtype, offload)
        _note_truncated(sampler.model, requests, observer)
    if incomplete:
        with atomic.output_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        observer.stage(f"images ({base.id})", sum(len(indices) for indices in incomplete))
    for indices in incomplete:
        batch_origins = [origins[i] for i in indices]
        files = cache.load(batch_origins) if cache is not None else None
        if files is None:
            # An entry may be damaged, or pruned meanwhile.
            sampler = sampler or Sampler(base, device, observer, dtype, offload)
            images = sampler.within_memory([requests[i] for i in indices])
            files = [png_bytes(*each) for each in zip(images, batch_origins)]
            if cache is not None:
                cache.store(batch_origins, files)
        for i, file in zip(indices, files):
            if not exists[i]:
                atomic.write_atomically(paths[i], file)
        observer.advance(len(indices))
    processes.wait()
    return paths, sum(exists)


def _note_truncated(
    model: LoadedModel, requests: Sequence[ImageRequest], observer: Observer
) -> None:
    """Note the prompts that are too long for the model."""
    cut = cut_prompts(model.tokenizer, [request.prompt for request in requests])
    for each in cut[:MOST_NOTES]:
        start = " ".join(each.prompt[:SHOWN_CHARACTERS].split())
        observer.note(
            f"the prompt '{start}…' has {each.tokens} tokens, and the model reads {each.limit}: "
            "the end of the prompt has no effect"
        )
    if len(cut) > MOST_NOTES:
        observer.note(f"{len(cut) - MOST_NOTES} more prompts are too long for the model")


def batches(
    requests: Sequence[ImageRequest], batch: int, processes: Processes
) -> Iterator[Sequence[int]]:
    """This process's batches, as indices of at most `batch` requests with equal settings."""
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(json.dumps(request.settings), []).append(i)
    for indices in groups.values():
        yield from processes.blocks(indices, batch)


def default_guidance(model: LoadedModel) -> float:
    """The guidance scale of images whose requests name none.

    It is `GUIDANCE` for small models and the family's default for others. A model is small if its
    VAE was trained on small images.
    """
    size = model.vae_config.get("sample_size")
    if size is None:  # AutoencoderTiny's config has no size
        size = [side * model.vae_scale for side in model.latent_shape[1:]]
    if max(sides(size)) <= SMALL:
        return GUIDANCE
    return models.get(models.family_of(model.base.settings)).GUIDANCE


class Sampler:
    """A model's own pipeline, loaded once."""

    def __init__(
        self,
        base: Base,
        device: str | None = None,
        observer: Observer | None = None,
        dtype: str = AUTO,
        offload: str = offloading.AUTO,
    ) -> None:
        # Imported here, because the command line starts without torch.
        import torch

        self.model = models.load(
            base, device=device, dtype=dtype, editable=False, observer=observer
        )
        networks = [*offloading.edited_networks(self.model), "vae"]
        is_offloaded = offloading.chosen(self.model, offload, networks)
        if is_offloaded:
            self.model.home = torch.device("cpu")
        self.pipeline: Any = text_to_image(self.model)
        if is_offloaded:
            if observer is not None:
                observer.note(offloading.NOTE)
            self.pipeline.enable_model_cpu_offload(device=self.model.device)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, requests: Sequence[ImageRequest]) -> list[Image]:
        """Generate one image for each request. All requests must have equal settings."""
        # Imported here, because the command line starts without torch.
        import torch

        first = requests[0]
        guidance = first.guidance
        if guidance is None:
            guidance = default_guidance(self.model)
        self.model.refuse_unembedded([request.prompt for request in requests])
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        options: dict[str, Any] = {**self._size(first), **self._inpainting(first)}
        if first.negative is not None:
            options["negative_prompt"] = [first.negative] * len(requests)
        # The pipeline's own no_grad still counts versions of every tensor: 3 % of a small model's
        # time.
        with torch.inference_mode():
            return self.pipeline(
                [request.prompt for request in requests],
                num_inference_steps=first.steps,
                guidance_scale=guidance,
                generator=generators,
                **options,
            ).images

    def _size(self, request: ImageRequest) -> dict[str, int | None]:
        """Both sides of the image, or none. diffusers would ignore a single side."""
        if not (request.width or request.height):
            return {"width": None, "height": None}
        height, width = (side * self.model.vae_scale for side in self.model.latent_shape[1:])
        return {"width": request.width or width, "height": request.height or height}

    def _inpainting(self, request: ImageRequest) -> dict[str, Any]:
        """The additional arguments of an in-painting pipeline: a grey image and a mask over it."""
        # Imported here, because the command line starts without Pillow.
        from PIL import Image

        if "mask_image" not in inspect.signature(self.pipeline.__call__).parameters:
            return {}
        scale = self.pipeline.vae_scale_factor
        height, width = (side * scale for side in sides(self.pipeline.unet.config.sample_size))
        size = (request.width or width, request.height or height)
        return {
            "image": Image.new("RGB", size, (127, 127, 127)),
            "mask_image": Image.new("L", size, 255),
            "strength": 1.0,
        }

    def within_memory(self, requests: Sequence[ImageRequest]) -> list[Image]:
        """Generate one image for each request, in halves if the device has too little memory.

        Raises:
            ForgetError: generate.out-of-memory: the memory is too small even for one image.
        """
        # Imported here, because accelerate imports torch and the command line starts without it.
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return self(requests)
        except RuntimeError as fault:
            if not should_reduce_batch_size(fault):
                raise
            if len(requests) == 1:
                raise ForgetError(
                    "generate.out-of-memory",
                    "the device has too little memory for one image",
                    "use another --device",
                ) from fault
        clear_device_cache(garbage_collection=True)
        half = len(requests) // 2
        return self.within_memory(requests[:half]) + self.within_memory(requests[half:])
