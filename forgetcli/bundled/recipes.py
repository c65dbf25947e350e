"""The recipes that come with forget. Standard library only: shell completion reads this."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
SCHEMA = "recipe.schema.json"
# Folders of TOML files beside them that are no recipes: prompt sets and evaluation files.
PARTS = ("prompts", "evaluation")


def folder() -> Path:
    """Their folder: inside the package once installed, ``recipes/`` beside it in a checkout."""
    installed = _HERE / "recipes"
    return installed if installed.is_dir() else _HERE.parents[1] / "recipes"


def bundled() -> dict[str, Path]:
    """Every bundled recipe by name (``art_styles``, ``sd14/objects``), sorted, those for the
    embedded model first.
    """
    within = folder()
    own = sorted(within.glob("*.toml")) + sorted(
        path for path in within.glob("*/*.toml") if path.parent.name not in PARTS
    )
    return {path.relative_to(within).with_suffix("").as_posix(): path for path in own}


def find(path: Path) -> Path | None:
    """The bundled recipe that `path` means (``art_styles``, ``sd14/objects``,
    ``recipes/art_styles.toml``), if any.
    """
    if path.suffix not in ("", ".toml"):
        return None
    name = path.with_suffix("")
    if name.parts[:1] == ("recipes",) and path.suffix == ".toml":
        name = name.relative_to("recipes")
    return bundled().get(name.as_posix())
