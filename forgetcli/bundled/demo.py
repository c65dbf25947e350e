"""The embedded model, a small latent diffusion pipeline for things × styles, and its judge."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model"
JUDGE = FOLDER / "judge"
DESCRIPTION = "41 things in 10 art styles, 64×64, trained from scratch on openly licensed drawings"


@cache
def world() -> dict:
    """Words, hints and groups of everything that the embedded model knows (world.toml)."""
    return tomllib.loads((FOLDER / "world.toml").read_text(encoding="utf-8"))
