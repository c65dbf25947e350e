"""The recipes that come with forget. Standard library only: shell completion reads this."""
from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
SCHEMA = "recipe.schema.json"


def folder() -> Path:
    """Where they lie: inside the package once installed, in ``recipes/`` beside it in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def bundled() -> dict[str, Path]:
    """Every bundled recipe by name (``art_styles``), sorted."""
    return {path.stem: path for path in sorted(folder().glob("*.toml"))}


def find(path: Path) -> Path | None:
    """The bundled recipe that `path` means (``art_styles``, ``recipes/art_styles.toml``), if any."""
    plain_name = path.parent == Path() and path.suffix in ("", ".toml")
    in_recipes = path.parent == Path("recipes") and path.suffix == ".toml"
    return bundled().get(path.stem) if plain_name or in_recipes else None
