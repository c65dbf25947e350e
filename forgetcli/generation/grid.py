"""The grid of generated images: prompts beside the rows, seeds above the columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.generation.images import GeneratedImage, png_bytes
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

SMALLEST = 128  # pixels; smaller images are enlarged by a whole factor, so that labels fit
INK = "#1c1c1e"


def write_grid(images: Sequence[GeneratedImage], count: int, path: Path) -> None:
    """One row per prompt with `count` images; the base model's come first, under "before".

    Args:
        images: all of the same size, `count` for each prompt, in the order of the prompts.
        path: the PNG to be written.
    """
    # The command line starts without Pillow.
    from PIL import Image, ImageDraw, ImageFont

    rows = [images[start : start + count] for start in range(0, len(images), count)]
    sides = [("before", True), ("after", False)] if images[0].base else [("", False)]
    width, height = _enlarged(images[0].path).size
    font_size = max(13, width // 20)
    font, line = ImageFont.load_default(font_size), font_size + font_size // 3
    gap, label = max(4, width // 32), max(150, width // 2)
    head = gap + line * (2 if images[0].base else 1)
    block = count * (width + gap) + 2 * gap  # the columns of one model
    size = (label + len(sides) * block + gap, head + len(rows) * (height + gap) + gap)
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for s, (title, of_base) in enumerate(sides):
        left = label + s * block + gap
        pen.text((left, gap), title, INK, font)
        for c, image in enumerate(rows[0]):
            place = (left + c * (width + gap), head - line)
            pen.text(place, f"seed {image.seed}", INK, font)
        for r, row in enumerate(rows):
            for c, image in enumerate(row):
                file = image.base if of_base and image.base else image.path
                place = (left + c * (width + gap), head + gap + r * (height + gap))
                grid.paste(_enlarged(file), place)
    for r, row in enumerate(rows):
        text = wrapped(row[0].prompt, font, label - 2 * gap, height // line)
        pen.text((gap, head + gap + r * (height + gap)), text, INK, font)
    atomic.write_atomically(path, png_bytes(grid))


def wrapped(text: str, font: FreeTypeFont | ImageFont, width: int, lines: int) -> str:
    """The text in at most `lines` lines of about `width` pixels, with … where it was cut."""
    plain = "".join(char if char.isprintable() else " " for char in text).strip()
    if not plain:
        return ""
    characters = 0.9 * width * len(plain) / font.getlength(plain)  # letters differ in width
    cut = textwrap.wrap(plain, max(2, int(characters)), max_lines=max(1, lines), placeholder=" …")
    return "\n".join(cut)


def _enlarged(file: Path) -> Image:
    from PIL import Image

    with Image.open(file) as opened:
        image = opened.convert("RGB")
    factor = max(1, SMALLEST // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
