"""Results in few words, and as the tables and images that a notebook shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

SIDE = 192  # pixels; larger images are shrunk to this on a page
MOST_IMAGES = 24  # of one result in a notebook


@dataclass(frozen=True)
class Captioned:
    """An image with the line below it."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Shown:
    """What a person sees of a result.

    Attributes:
        line: without the name of the result's class.
        head, rows: of a table; no table without rows.
        images: the first `MOST_IMAGES` are shown.
    """

    line: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Sequence[Captioned] = ()


class Result:
    """A result with a short `repr` and a rich form for notebooks, both made from `shown`.

    The `repr` that a dataclass would make has every field in full, which can be pages.
    """

    def shown(self) -> Shown:
        """What a person sees; subclasses say it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown().line})"

    def _repr_html_(self) -> str:
        shown = self.shown()
        parts = [f"<p><b>{escape(repr(self))}</b></p>"]
        if shown.rows:
            parts += ["<table>", _row("th", shown.head)]
            parts += [*(_row("td", row) for row in shown.rows), "</table>"]
        images = [each for each in shown.images if each.path.is_file()]
        if images:
            figures = "".join(map(_figure, images[:MOST_IMAGES]))
            parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>')
        if images[MOST_IMAGES:]:
            parts.append(f"<p>and {len(images) - MOST_IMAGES} more</p>")
        return "".join(parts)


def _row(cell: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(str(text))}</{cell}>' for text in texts)}</tr>"


def _figure(image: Captioned) -> str:
    caption = escape(image.caption)
    return (
        f'<figure style="margin:0;max-width:{SIDE}px"><img src="{image_url(image.path)}" '
        f'alt="{caption}"><figcaption><small>{caption}</small></figcaption></figure>'
    )


def percent(value: float | None) -> str:
    """A share from 0 to 1 as text."""
    return "–" if value is None else f"{100 * value:.0f} %"


def image_url(path: Path, side: int | None = None) -> str:
    """An image as a data URL, so that a page is one file; a larger image is shrunk.

    Args:
        side: the longest side in pixels. Default: `SIDE`.
    """
    # Imported here: results are made by commands that show no image.
    from PIL import Image

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
