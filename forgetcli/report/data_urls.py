"""Images inside the page, so that it is one file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SIDE = 192  # pixels; larger images are shrunk to this on the page


def image_url(path: Path, side: int | None = None) -> str:
    """An image as a data URL; a larger image is shrunk.

    Args:
        side: the longest side in pixels. Default: `SIDE`.
    """
    side = side or SIDE
    with Image.open(path) as image:
        if max(image.size) <= side:
            return data_url(path.read_bytes(), "png")
        shrunk = image.convert("RGB")
    shrunk.thumbnail((side, side))
    buffer = io.BytesIO()
    shrunk.save(buffer, "WEBP", quality=85)
    return data_url(buffer.getvalue(), "webp")


def data_url(data: bytes, kind: str) -> str:
    """The bytes of an image of this subtype (`png`, `svg+xml`) as a URL."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
