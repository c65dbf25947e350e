"""Openly licensed emoji drawings, read from npm packages and rasterised with augmentation.

The denoiser learns from four sets, the judge from four others and from two of the denoiser's, under
other augmentation; two
of the denoiser's sets it never sees, and is tested on. Share-alike sets are left out.
"""

from __future__ import annotations

import io
import json
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageEnhance

WORLD = tomllib.loads((Path(__file__).parents[2] / "forgetcli/bundled/world.toml").read_text())
THINGS: list[str] = list(WORLD["things"])
STYLES: list[str] = list(WORLD["styles"])

MODEL_SETS = (
    "noto",
    "twemoji",
    "fluent-emoji-flat",
    "emojione",
)  # Apache-2.0, CC-BY-4.0, MIT, CC-BY-4.0
JUDGE_SETS = (
    "noto-v1",
    "fluent-emoji",
    "fxemoji",
    "fluent-emoji-high-contrast",
)  # Apache-2.0, MIT, Apache-2.0, MIT
SHARED_SETS = (
    "twemoji",
    "emojione",
)  # the judge's too: some things are drawn in two other hands only
UNSEEN_SETS = ("noto", "fluent-emoji-flat")  # the judge never sees these: its hardest test
OTHERS = (
    "clown-face",
    "teapot",
    "scissors",
    "hammer",
    "television",
    "spider",
    "trophy",
    "alarm-clock",
    "anchor",
    "bell",
    "books",
    "crown",
    "hamburger",
    "high-heeled-shoe",
    "light-bulb",
    "locomotive",
    "pear",
    "snail",
    "ghost",
    "robot",
    "t-shirt",
    "wine-glass",
)  # things of no concept: the judge's "none of these"
CANVAS = 128  # styles work at twice the final size

# Things that have a left and a right must not be taught both ways where the drawing is asymmetric
# by nature.
UPRIGHT_FULL = {"sunset", "night", "fireworks"}  # square scenes: kept level


@cache
def icon_set(packages: Path, name: str) -> dict:
    return json.loads((packages / "@iconify-json" / name / "icons.json").read_text())


def svg_of(packages: Path, set_name: str, thing: str) -> str | None:
    entry = WORLD["things"].get(thing, {"icon": thing})  # an emoji's own name, for OTHERS
    name = entry.get("fx") if set_name == "fxemoji" else entry["icon"]
    icons = icon_set(packages, set_name)
    for _ in range(5):  # aliases may chain
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    if name not in icons["icons"]:
        return None
    icon = icons["icons"][name]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'  # noqa: E501
    )


@cache
def raster(packages: Path, set_name: str, thing: str, size: int = 256) -> Image.Image | None:
    svg = svg_of(packages, set_name, thing)
    if svg is None:
        return None
    image = Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)))
    ).convert("RGBA")
    left, top, right, bottom = image.getchannel("A").getbbox()
    side = max(right - left, bottom - top)  # thin figures fill the square too
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(
        image.crop((left, top, right, bottom)),
        ((side - right + left) // 2, (side - bottom + top) // 2),
    )
    return square


def draw(
    packages: Path, set_name: str, thing: str, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray | None:
    """One augmented drawing: float32 RGBA in 0…1, shape (CANVAS, CANVAS, 4), alpha not
    premultiplied.
    """
    source = raster(packages, set_name, thing)
    if source is None:
        return None
    level = thing in UPRIGHT_FULL
    angle = rng.normal(0, 1.5 if level else 6) * strength
    scale = (
        rng.uniform(max(0.80, 0.98 - 0.18 * strength), 0.98) if not level else rng.uniform(0.9, 1.0)
    )
    size = int(CANVAS * scale)
    image = source.rotate(angle, Image.BICUBIC).resize((size, size), Image.LANCZOS)
    if strength >= 1 and rng.random() < 0.3:  # mildly varied pictures all face one way
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    rgb = ImageEnhance.Color(image.convert("RGB")).enhance(
        rng.uniform(1 - 0.2 * strength, 1 + 0.2 * strength)
    )
    rgb = ImageEnhance.Brightness(rgb).enhance(rng.uniform(1 - 0.1 * strength, 1 + 0.1 * strength))
    image = Image.merge("RGBA", (*rgb.split(), image.getchannel("A")))
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (255, 255, 255, 0))
    room = CANVAS - size
    canvas.paste(image, (int(rng.integers(0, room + 1)), int(rng.integers(0, room + 1))))
    return np.asarray(canvas, dtype=np.float32) / 255
