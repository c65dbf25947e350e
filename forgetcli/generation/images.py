"""Requests for images, and generated images as PNG files with their origin in the metadata."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.errors import ForgetError
from forgetcli.storage.files import is_regular

if TYPE_CHECKING:
    from PIL.Image import Image

DTYPE = "float32"  # the dtype that is not recorded, so that earlier images are found
METADATA = "forget"  # the PNG text chunk with the origin of the image, as JSON
FINGERPRINT_DIGITS = 10
MOST_IMAGES = 1_000_000  # of one model; each request takes about a kilobyte of memory


def refuse_too_many(prompts: int, each: int) -> None:
    """Refuse more images in one run than there is memory for their requests.

    Args:
        each: the number of images for each prompt.
    Raises:
        ForgetError: generate.too-many.
    """
    if prompts * each > MOST_IMAGES:
        raise ForgetError(
            "generate.too-many",
            f"{prompts} × {each} images are more than {MOST_IMAGES} in one run",
            "generate fewer images for each prompt, or divide the prompts among several runs",
        )


@dataclass(frozen=True)
class ImageRequest:
    """A request to generate one image.

    Attributes:
        prompt: the prompt.
        seed: the seed of the initial noise.
        steps: the number of sampling steps.
        guidance: the scale of classifier-free guidance; None: the model's default.
        width: in pixels; None: the model's default.
        height: in pixels; None: the model's default.
        negative: the prompt that guidance leads away from; None: the empty prompt.
    """

    prompt: str
    seed: int
    steps: int = 20
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    negative: str | None = None

    def __post_init__(self) -> None:
        """Check the guidance scale.

        Raises:
            ForgetError: generate.guidance: the scale is not a finite number.
        """
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ForgetError(
                "generate.guidance",
                f"the guidance scale {self.guidance} is not a finite number",
                "leave it out to use the model's default",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except prompt and seed. All requests in a batch must have equal settings."""
        settings: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance}
        if self.width or self.height:
            settings |= {"width": self.width, "height": self.height}
        if self.negative is not None:
            settings["negative_prompt"] = self.negative
        return settings

    def origin(self, model: str, dtype: str = DTYPE) -> dict[str, Any]:
        """Everything that determines the image, as recorded in its PNG.

        Args:
            model: the digest of the model.
            dtype: the dtype in which the model runs; recorded unless it is `DTYPE`.
        """
        origin = {"prompt": self.prompt, "seed": self.seed, "model": model, **self.settings}
        return origin if dtype == DTYPE else {**origin, "dtype": dtype}


@dataclass(frozen=True)
class GeneratedImage:
    """An image on disk.

    Attributes:
        path: the PNG.
        prompt: the prompt.
        seed: the seed of the initial noise.
        base: the base model's image for the same prompt and seed; None if it was not requested.
    """

    path: Path
    prompt: str
    seed: int
    base: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """One item of ``images`` in ``generate --json``."""
        data: dict[str, Any] = {"path": str(self.path), "prompt": self.prompt, "seed": self.seed}
        if self.base:
            data["base"] = str(self.base)
        return data


def fingerprint(origin: Mapping[str, Any]) -> str:
    """A short hash of an image's origin, for its file name."""
    text = json.dumps(origin, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]


def has_origin(path: Path, origin: Mapping[str, Any]) -> bool:
    """Whether the file is an intact image with exactly this origin."""
    # Imported here, because the command line starts without Pillow.
    from PIL import Image, UnidentifiedImageError

    if not is_regular(path):  # reading a pipe might never end
        return False
    try:
        # verify() compares the checksums. Decoding alone misses some damage.
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            image.load()
            # Only PNG images have a text attribute.
            text: Mapping[str, str] = image.text  # type: ignore[attr-defined, unused-ignore]
            return json.loads(text.get(METADATA, "null")) == origin
    except (
        OSError,
        UnidentifiedImageError,
        ValueError,
        AttributeError,
        SyntaxError,
        RecursionError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return False


def png_bytes(image: Image, origin: Mapping[str, Any] | None = None) -> bytes:
    """Encode an image as PNG, with its origin in the metadata."""
    # Imported here, because the command line starts without Pillow.
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if origin:
        info.add_text(METADATA, json.dumps(origin, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
