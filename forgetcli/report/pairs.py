"""A sheet of image pairs, before and after an edit, with their prompts, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from forgetcli.generation.grid import wrapped
from forgetcli.generation.images import png_bytes
from forgetcli.storage import atomic

SIDE = 128  # pixels of an image on the sheet
COLUMNS = 3
GAP = 8  # pixels between the parts of the sheet
CAPTION = 34  # pixels of the caption's height
CAPTION_FONT_SIZE = 12
CAPTION_LINES = 2
HEADING = 26  # pixels of the heading of a part
HEADING_FONT_SIZE = 17
COLUMN_HEAD = 16  # pixels of "before" and "after"


@dataclass(frozen=True)
class Pair:
    """Images of the same prompt and seed.

    Attributes:
        before: the unedited model's image.
        after: the edited model's image.
        edited: whether the model was edited to forget the prompt's concept.
    """

    prompt: str
    before: Path
    after: Path
    edited: bool


def write_sheet(pairs: Sequence[Pair], path: Path) -> None:
    """Write a sheet with the concepts to forget, then the concepts to retain, `COLUMNS` pairs per
    row.

    Each column is headed "before" (the unedited model's image) and "after". Prompts are below the
    images.
    """
    parts = [
        ("To forget", [pair for pair in pairs if pair.edited]),
        ("To keep", [pair for pair in pairs if not pair.edited]),
    ]
    width = 2 * SIDE + 2 + 2 * GAP
    tops = [_height(part) for _, part in parts]
    sheet = Image.new("RGB", (COLUMNS * width, sum(tops) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for (heading, part), height in zip(parts, tops):
        if part:
            pen.text((GAP, top), heading, "black", ImageFont.load_default(HEADING_FONT_SIZE))
            _draw_part(sheet, pen, part, top + HEADING)
        top += height
    atomic.write_atomically(path, png_bytes(sheet))


def _height(part: Sequence[Pair]) -> int:
    rows = -(-len(part) // COLUMNS)
    return HEADING + COLUMN_HEAD + rows * (SIDE + CAPTION + GAP) if rows else 0


def _draw_part(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, part: Sequence[Pair], top: int
) -> None:
    font = ImageFont.load_default(CAPTION_FONT_SIZE)
    width = 2 * SIDE + 2
    for number, pair in enumerate(part):
        x = GAP + number % COLUMNS * (width + 2 * GAP)
        y = top + COLUMN_HEAD + number // COLUMNS * (SIDE + CAPTION + GAP)
        if number < COLUMNS:
            pen.text((x, top), "before", "black", font)
            pen.text((x + SIDE + 2, top), "after", "black", font)
        sheet.paste(_scaled(pair.before), (x, y))
        sheet.paste(_scaled(pair.after), (x + SIDE + 2, y))
        caption = wrapped(pair.prompt, font, width, CAPTION_LINES)
        pen.text((x, y + SIDE + 3), caption, "black", font)


def _scaled(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
