"""Seeded, resumable pictures.

Each picture has its own generator, on the CPU, so that it depends on its prompt and seed alone, not
on the batch it was
made in. Its PNG says what made it; a picture that is there already, made by the same, is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.distributed import Processes
from forgetcli.errors import ForgetError
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from PIL.Image import Image

    from forgetcli.checkpoint.base import Base

GUIDANCE = 4.5  # for the embedded model; those of real size have their family's
METADATA = "forget"  # the PNG text chunk with the JSON of `Picture.origin`


@dataclass(frozen=True)
class Picture:
    """One picture: where it is, and what made it. `base` is the unedited model's at the same seed,
    if asked for.
    """

    path: Path
    prompt: str
    seed: int
    base: Path | None = None


@dataclass(frozen=True)
class Shot:
    """A picture to be made. What is None is the model's own: guidance, and the size in pixels."""

    prompt: str
    seed: int
    steps: int = 20
    guidance: float | None = None
    width: int | None = None
    height: int | None = None

    @property
    def settings(self) -> dict:
        """All but prompt and seed: pictures that share them can be made together."""
        size = {"width": self.width, "height": self.height} if self.width or self.height else {}
        return {"steps": self.steps, "guidance": self.guidance, **size}


@dataclass(frozen=True)
class GenerateResult:
    images: tuple[Picture, ...]
    grid: Path | None
    reused: int
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
        return {
            "images": [
                {
                    "path": str(i.path),
                    "prompt": i.prompt,
                    "seed": i.seed,
                    **({"base": str(i.base)} if i.base else {}),
                }
                for i in self.images
            ],
            "grid": str(self.grid) if self.grid else None,
            "reused": self.reused,
            "seconds": dict(self.seconds),
        }


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
    observer: Observer | None = None,
) -> GenerateResult:
    """`count` pictures for each prompt, at seeds `seed`, `seed + 1`, …

    Args:
        model: `demo`, a diffusers folder, a single file, an edited folder or a hub id.
        config: a single file's settings; see `checkpoint.resolve`.
        guidance: default: 4.5 for small models, for those of real size the family's (7.5 for sd).
        grid: also write `grid.png`, a row for each prompt.
        compare_base: also make the unedited model's picture at the same seed; the model must be an
            edited folder.
        batch: pictures at a time.
    Raises:
        ForgetError: no prompt, or a model that cannot be loaded.
    """
    from forgetcli.artifact.edited import EditedModel
    from forgetcli.checkpoint import base as checkpoint

    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    prompts = [p.strip() for p in prompts if p.strip()]
    if not prompts:
        raise ForgetError(
            "generate.no-prompt",
            "there is no prompt to draw",
            "give one, or a file of them with --prompts",
        )
    wanted = [Shot(prompt, seed + k, steps, guidance) for prompt in prompts for k in range(count)]
    base = checkpoint.resolve(model, config=config)
    original = (
        EditedModel(base.folder).manifest.resolve_base() if compare_base else None
    )  # before the work: there may be none
    with watch.stage("generate"):
        paths, reused = draw(base, wanted, output, device=device, batch=batch, observer=observer)
        originals: list[Path] = []
        if original is not None:
            originals, again = draw(
                original, wanted, output / "base", device=device, batch=batch, observer=observer
            )
            reused += again
    images = tuple(
        Picture(path, shot.prompt, shot.seed, originals[i] if originals else None)
        for i, (path, shot) in enumerate(zip(paths, wanted))
    )
    sheet = None
    if grid or compare_base:
        sheet = output / "grid.png"
        write_grid(images, count, sheet)
    observer.done()
    return GenerateResult(images, sheet, reused, watch.report())


def draw(
    base: Base,
    wanted: Sequence[Shot],
    folder: Path,
    *,
    device: str | None,
    batch: int,
    observer: Observer,
    processes: Processes = Processes(),
) -> tuple[list[Path], int]:
    """Paths of the pictures in `folder`, in order, and how many were there already.

    Pictures are made `batch` at a time in fixed blocks, of which each of several processes makes
    its share; when it
    returns, all are there. A block of which some are missing is computed whole, so that a run that
    was cut short ends
    with the same bytes as one that was not.
    """
    origins = [
        {"prompt": s.prompt, "seed": s.seed, "model": base.drawn_by, **s.settings} for s in wanted
    ]
    paths = [folder / f"{i:04d}-s{o['seed']}-{fingerprint(o)}.png" for i, o in enumerate(origins)]
    there = [made_by(path, origin) for path, origin in zip(paths, origins)]
    todo = [block for block in alike(wanted, batch, processes) if not all(there[i] for i in block)]
    if todo:
        sampler = Sampler(base, device)  # first: a model that cannot be loaded leaves no folder
        with atomic.output_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        observer.stage(f"pictures ({base.id})", sum(map(len, todo)))
    for block in todo:
        for i, picture in zip(block, sampler.together([wanted[i] for i in block])):
            if not there[i]:
                atomic.write_atomically(paths[i], png_bytes(picture, origins[i]))
        observer.advance(len(block))
    processes.wait()
    return paths, sum(there)


def alike(wanted: Sequence[Shot], batch: int, processes: Processes) -> Iterator[Sequence[int]]:
    """This process' blocks of indices, each of at most `batch` pictures that can be made together."""
    groups: dict[str, list[int]] = {}
    for i, shot in enumerate(wanted):
        groups.setdefault(json.dumps(shot.settings), []).append(i)
    for indices in groups.values():
        yield from processes.blocks(indices, batch)


class Sampler:
    """A model's own pipeline, loaded once."""

    def __init__(self, base: Base, device: str | None = None) -> None:
        import torch
        from diffusers import DiffusionPipeline

        from forgetcli import models
        from forgetcli.device import pick_device
        from forgetcli.models import components

        family = models.family_of(base.settings)
        unchecked = (
            {"safety_checker": None, "requires_safety_checker": False} if family == "sd" else {}
        )
        self.guidance = models.get(family).GUIDANCE
        self.pipeline = DiffusionPipeline.from_pretrained(
            base.settings,
            **components.networks(base, torch.float32),
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            **unchecked,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(pick_device(device))

    def __call__(self, shots: Sequence[Shot]) -> list[Image]:
        """One picture for each; all have the same settings."""
        import torch

        first = shots[0]
        guidance = first.guidance
        if guidance is None:
            guidance = GUIDANCE if self.pipeline.vae.config.sample_size <= 64 else self.guidance
        generators = [torch.Generator().manual_seed(shot.seed) for shot in shots]
        return self.pipeline(
            [shot.prompt for shot in shots],
            num_inference_steps=first.steps,
            guidance_scale=guidance,
            width=first.width,
            height=first.height,
            generator=generators,
            **self.canvas(first),
        ).images

    def canvas(self, shot: Shot) -> dict:
        """What an in-painting pipeline wants besides: a picture, and a mask over all of it."""
        from inspect import signature

        from PIL import Image as Images

        if "mask_image" not in signature(self.pipeline.__call__).parameters:
            return {}
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        size = (shot.width or side, shot.height or side)
        return {
            "image": Images.new("RGB", size, (127, 127, 127)),
            "mask_image": Images.new("L", size, 255),
            "strength": 1.0,
        }

    def together(self, shots: Sequence[Shot]) -> list[Image]:
        """The same, in halves where the device has too little memory for all at once.

        Raises:
            ForgetError: there is too little even for one.
        """
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return self(shots)
        except RuntimeError as fault:
            if not should_reduce_batch_size(fault):
                raise
            if len(shots) == 1:
                raise ForgetError(
                    "generate.out-of-memory",
                    "the device has too little memory for one picture",
                    "use another --device",
                ) from fault
        clear_device_cache(garbage_collection=True)
        half = len(shots) // 2
        return self.together(shots[:half]) + self.together(shots[half:])


def fingerprint(origin: Mapping) -> str:
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:10]


def made_by(path: Path, origin: Mapping) -> bool:
    """Whether a whole picture is there that was made by exactly this; a damaged one is made anew."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.verify()  # the checksums: decoding alone passes over some damage
        with Image.open(path) as picture:
            picture.load()
            return json.loads(picture.text.get(METADATA, "null")) == origin
    except (OSError, UnidentifiedImageError, ValueError, AttributeError, SyntaxError):
        return False


def png_bytes(picture: Image, origin: Mapping | None = None) -> bytes:
    """A PNG, with what made it in its metadata."""
    import io

    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    if origin:
        info.add_text(METADATA, json.dumps(origin, sort_keys=True))
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def write_grid(images: Sequence[Picture], count: int, path: Path) -> None:
    """A row for each prompt: `count` pictures, and the unedited model's before them when there are
    any.
    """
    from PIL import Image as Images

    def opened(file: Path) -> Image:
        return Images.open(file).convert("RGB")

    rows = [images[k : k + count] for k in range(0, len(images), count)]
    cells = [
        [opened(f) for f in (*[i.base for i in row if i.base], *[i.path for i in row])]
        for row in rows
    ]
    width, height = cells[0][0].size
    gap = max(2, width // 32)
    split = 3 * gap if images[0].base else 0  # a wider gap between before and after
    columns = len(cells[0])
    sheet = Images.new(
        "RGB", (columns * (width + gap) + gap + split, len(cells) * (height + gap) + gap), "white"
    )
    for r, row in enumerate(cells):
        for c, picture in enumerate(row):
            sheet.paste(
                picture,
                (
                    gap + c * (width + gap) + (split if c >= count and split else 0),
                    gap + r * (height + gap),
                ),
            )
    atomic.write_atomically(path, png_bytes(sheet))
