"""Seeded, resumable generation.

Each image has its own generator on the CPU: it depends on its prompt and seed, not on its batch.
The PNG's metadata say how it was generated. An existing image with the requested origin is kept.
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
from forgetcli.distributed import Processes
from forgetcli.errors import ForgetError, counted
from forgetcli.generation.grid import write_grid
from forgetcli.generation.images import (
    DTYPE,
    GeneratedImage,
    ImageRequest,
    fingerprint,
    has_origin,
    png_bytes,
    refuse_too_many,
)
from forgetcli.generation.text_to_image import text_to_image
from forgetcli.models.tokens import cut_prompts
from forgetcli.models.unet import sides
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from PIL.Image import Image

    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel

# The default guidance scale of small models such as the embedded one; others have their family's.
GUIDANCE = 4.5
SMALL = 64  # pixels along one side
# Of prompts that are too long: the notes in one run, and the characters shown of each.
MOST_NOTES = 3
SHOWN = 40
ALONE = Processes()


@dataclass(frozen=True, repr=False)
class GenerateResult(Result):
    """What `generate` wrote.

    Attributes:
        images: the images, prompt by prompt, each prompt's by seed.
        grid: the image with the grid, if one was requested.
        reused: the number of images that existed already, including those of the base model.
        seconds: duration of each stage.
    """

    images: tuple[GeneratedImage, ...]
    grid: Path | None
    reused: int
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As in ``generate --json``."""
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
    dtype: str = DTYPE,
    observer: Observer | None = None,
) -> GenerateResult:
    """Generate `count` images for each prompt, at seeds `seed`, `seed + 1`, …

    Args:
        model: `demo`, a diffusers folder, a single file, an edited folder or a hub id.
        config: the settings of a single file; see `checkpoint.resolve`.
        guidance: default: 4.5 for small models, otherwise the family's (7.5 for sd).
        grid: also write `grid.png`, one row per prompt.
        compare_base: also generate with the base model at the same seeds; the model must be an
            edited folder.
        batch: images generated at a time.
        width, height: in pixels, multiples of 8; default: the model's own.
        negative_prompt: what guidance leads away from; default: the empty prompt.
        dtype: what the model runs in: float32, float16 or bfloat16.
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
    base = checkpoint.resolve(model, config=config)
    # The base model is found before anything is generated: it may be missing.
    unedited = EditedModel(base.folder).manifest.resolve_base() if compare_base else None
    base_paths: list[Path] = []
    with watch.stage("generate"):
        paths, reused = draw(
            base,
            requests,
            output,
            device=device,
            batch=batch,
            observer=observer,
            dtype=dtype,
        )
        if unedited is not None:
            base_paths, base_reused = draw(
                unedited,
                requests,
                output / "base",
                device=device,
                batch=batch,
                observer=observer,
                dtype=dtype,
            )
            reused += base_reused
    images = tuple(
        GeneratedImage(
            path, request.prompt, request.seed, base=base_paths[i] if base_paths else None
        )
        for i, (path, request) in enumerate(zip(paths, requests))
    )
    grid_path = None
    if grid or compare_base:
        grid_path = output / "grid.png"
        write_grid(images, count, grid_path)
    observer.done()
    return GenerateResult(images, grid_path, reused, watch.report())


def _stripped(prompts: Sequence[str]) -> list[str]:
    """The prompts without surrounding white space and without empty ones.

    Raises:
        ForgetError: generate.no-prompt: there is none.
    """
    stripped = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not stripped:
        raise ForgetError(
            "generate.no-prompt",
            "there is no prompt",
            "give one, or a file of them with --prompts",
        )
    return stripped


def draw(
    base: Base,
    requests: Sequence[ImageRequest],
    folder: Path,
    *,
    device: str | None,
    batch: int,
    observer: Observer,
    processes: Processes = ALONE,
    dtype: str = DTYPE,
) -> tuple[list[Path], int]:
    """Generate the requested images in `folder`.

    Images are generated in fixed batches. Each of several processes generates its share of them;
    all images exist when the function returns. If any image of a batch is missing, the whole batch
    is regenerated, so that a resumed run is byte-identical to an uninterrupted one.

    Args:
        batch: images generated at a time.
        dtype: what the model runs in.
    Returns:
        the images' paths in the order of `requests`, and how many of them existed already.
    """
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
    if incomplete:
        # The model is loaded before the folder is made: if it cannot be, no folder is left.
        sampler = Sampler(base, device, observer, dtype)
        _note_cut(sampler.model, requests, observer)
        with atomic.output_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        observer.stage(f"images ({base.id})", sum(len(indices) for indices in incomplete))
    for indices in incomplete:
        images = sampler.within_memory([requests[i] for i in indices])
        for i, image in zip(indices, images):
            if not exists[i]:
                atomic.write_atomically(paths[i], png_bytes(image, origins[i]))
        observer.advance(len(indices))
    processes.wait()
    return paths, sum(exists)


def _note_cut(model: LoadedModel, requests: Sequence[ImageRequest], observer: Observer) -> None:
    """Say which prompts are longer than the model reads."""
    cut = cut_prompts(model.tokenizer, [request.prompt for request in requests])
    for each in cut[:MOST_NOTES]:
        start = " ".join(each.prompt[:SHOWN].split())
        observer.note(
            f"the prompt '{start}…' has {each.tokens} tokens, and the model reads {each.limit}: "
            "the end of the prompt has no effect"
        )
    if len(cut) > MOST_NOTES:
        observer.note(f"{len(cut) - MOST_NOTES} more prompts are too long for the model")


def batches(
    requests: Sequence[ImageRequest], batch: int, processes: Processes
) -> Iterator[Sequence[int]]:
    """The indices of each batch of this process: at most `batch` requests with equal settings."""
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(json.dumps(request.settings), []).append(i)
    for indices in groups.values():
        yield from processes.blocks(indices, batch)


def default_guidance(model: LoadedModel) -> float:
    """The guidance scale of images whose requests name none: that of small models, or the family's.

    Small is what the VAE was trained with.
    """
    size = model.vae_config.get("sample_size")
    if size is None:  # AutoencoderTiny names none
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
        dtype: str = DTYPE,
    ) -> None:
        self.model = models.load(
            base, device=device, dtype=dtype, editable=False, observer=observer
        )
        self.pipeline: Any = text_to_image(self.model)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, requests: Sequence[ImageRequest]) -> list[Image]:
        """One image for each request. All must have equal settings."""
        # The command line starts without torch.
        import torch

        first = requests[0]
        guidance = first.guidance
        if guidance is None:
            guidance = default_guidance(self.model)
        self.model.refuse_unembedded([request.prompt for request in requests])
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        return self.pipeline(
            [request.prompt for request in requests],
            num_inference_steps=first.steps,
            guidance_scale=guidance,
            **self._size(first),
            generator=generators,
            **(
                {}
                if first.negative is None
                else {"negative_prompt": [first.negative] * len(requests)}
            ),
            **self._inpainting(first),
        ).images

    def _size(self, request: ImageRequest) -> dict[str, int | None]:
        """Both sides: given one, diffusers would ignore it."""
        width, height = request.width, request.height
        if width or height:
            own = [side * self.model.vae_scale for side in self.model.latent_shape[1:]]
            height, width = height or own[0], width or own[1]
        return {"width": width, "height": height}

    def _inpainting(self, request: ImageRequest) -> dict[str, Any]:
        """The further arguments of an in-painting pipeline: a grey image, and a mask over it."""
        # The command line starts without Pillow.
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
        """As a call, in halves if the device has too little memory for all at once.

        Raises:
            ForgetError: generate.out-of-memory: there is too little memory for one image.
        """
        # The command line starts without torch, which accelerate imports.
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
