"""Images as data URLs, so that the page is one file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SIDE = 192  # pixels of the longest side; larger images are scaled down


def image_url(path: Path, side: int | None = None) -> str:
    """An image as a data URL, scaled down if it is too large.

    Args:
        side: the longest allowed side in pixels; default: `SIDE`.
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
    """The bytes of an image as a URL.

    Args:
        kind: the image's MIME subtype, such as ``png`` or ``svg+xml``.
    """
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
