"""Image pairs, before and after an edit, with their prompts, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from forgetcli.generation.images import png_bytes
from forgetcli.storage import atomic

SIDE = 128  # pixels of an image on the sheet
COLUMNS = 3
GAP = 8  # pixels between pairs
CAPTION = 34  # pixels of the caption's height
CAPTION_FONT_SIZE = 12
CAPTION_LINES = 2
CAPTION_WIDTH = 42  # characters


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
    """`COLUMNS` pairs a row: the unedited model's image on the left, the edited model's on the
    right, the prompt below.
    """
    font = ImageFont.load_default(CAPTION_FONT_SIZE)
    width = 2 * SIDE + 2
    height = SIDE + CAPTION
    rows = -(-len(pairs) // COLUMNS)
    size = (COLUMNS * (width + 2 * GAP), rows * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        x = GAP + number % COLUMNS * (width + 2 * GAP)
        y = GAP + number // COLUMNS * (height + GAP)
        sheet.paste(_scaled(pair.before), (x, y))
        sheet.paste(_scaled(pair.after), (x + SIDE + 2, y))
        pen.text((x, y + SIDE + 3), _caption(pair), "black", font)
    atomic.write_atomically(path, png_bytes(sheet))


def _scaled(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _caption(pair: Pair) -> str:
    kind = "forget: " if pair.edited else "keep: "
    return "\n".join(textwrap.wrap(kind + pair.prompt, CAPTION_WIDTH)[:CAPTION_LINES])
