"""The grid of generated images, with the prompt beside each row and the seed above each column."""

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

SMALLEST = 128  # pixels; smaller images are enlarged by an integer factor, so that labels fit
TEXT_COLOUR = "#1c1c1e"


def write_grid(images: Sequence[GeneratedImage], count: int, path: Path) -> None:
    """Write a grid with one row per prompt and `count` images per row.

    If there are images of the base model, they are on the left under "before".

    Args:
        images: all of the same size, `count` for each prompt, in the order of the prompts.
        path: the PNG to write.
    """
    # Imported here, because the command line starts without Pillow.
    from PIL import Image, ImageDraw, ImageFont

    rows = [images[start : start + count] for start in range(0, len(images), count)]
    # The blocks of the grid: (title, whether it shows the base model's images).
    blocks = [("before", True), ("after", False)] if images[0].base else [("", False)]
    width, height = _enlarged(images[0].path).size
    font_size = max(13, width // 20)
    font = ImageFont.load_default(font_size)
    line_height = font_size + font_size // 3
    gap = max(4, width // 32)
    label_width = max(150, width // 2)
    head = gap + line_height * (2 if images[0].base else 1)
    block_width = count * (width + gap) + 2 * gap
    size = (label_width + len(blocks) * block_width + gap, head + len(rows) * (height + gap) + gap)
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for b, (title, of_base) in enumerate(blocks):
        left = label_width + b * block_width + gap
        pen.text((left, gap), title, TEXT_COLOUR, font)
        for c, image in enumerate(rows[0]):
            corner = (left + c * (width + gap), head - line_height)
            pen.text(corner, f"seed {image.seed}", TEXT_COLOUR, font)
        for r, row in enumerate(rows):
            for c, image in enumerate(row):
                file = image.base if of_base and image.base else image.path
                corner = (left + c * (width + gap), head + gap + r * (height + gap))
                grid.paste(_enlarged(file), corner)
    for r, row in enumerate(rows):
        text = wrapped(row[0].prompt, font, label_width - 2 * gap, height // line_height)
        pen.text((gap, head + gap + r * (height + gap)), text, TEXT_COLOUR, font)
    atomic.write_atomically(path, png_bytes(grid))


def wrapped(text: str, font: FreeTypeFont | ImageFont, width: int, lines: int) -> str:
    """Wrap the text into at most `lines` lines of about `width` pixels. … marks truncated text."""
    plain = "".join(char if char.isprintable() else " " for char in text).strip()
    if not plain:
        return ""
    # An estimate from the mean width, with a margin because letters differ in width.
    characters = 0.9 * width * len(plain) / font.getlength(plain)
    cut = textwrap.wrap(plain, max(2, int(characters)), max_lines=max(1, lines), placeholder=" …")
    return "\n".join(cut)


def _enlarged(file: Path) -> Image:
    from PIL import Image

    with Image.open(file) as opened:
        image = opened.convert("RGB")
    factor = max(1, SMALLEST // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
