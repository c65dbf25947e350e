"""Before/after pairs with their prompts, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetcli.generation.images import png_bytes
from forgetcli.storage import atomic

SIDE = 128  # pixels of a picture on the sheet
COLUMNS = 3
GAP, CAPTION = 8, 34


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed before and after; `edited`: the concept should be gone."""

    prompt: str
    before: Path
    after: Path
    edited: bool


def write_sheet(pairs: Sequence[Pair], path: Path) -> None:
    """`COLUMNS` pairs a row: the unedited model's picture on the left, the edited one's on the
    right, the prompt below.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, width, height = ImageFont.load_default(12), 2 * SIDE + 2, SIDE + CAPTION
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 2 * GAP), rows * (height + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, pair in enumerate(pairs):
        x, y = GAP + k % COLUMNS * (width + 2 * GAP), GAP + k // COLUMNS * (height + GAP)
        for place, file in ((x, pair.before), (x + SIDE + 2, pair.after)):
            with Image.open(file) as picture:
                sheet.paste(
                    picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST),
                    (place, y),
                )
        kind = "forget: " if pair.edited else "keep: "
        pen.text(
            (x, y + SIDE + 3), "\n".join(textwrap.wrap(kind + pair.prompt, 42)[:2]), "black", font
        )
    atomic.write_atomically(path, png_bytes(sheet))
