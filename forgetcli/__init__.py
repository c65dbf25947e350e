"""Make a text-to-image diffusion model forget a concept, by editing its weights in closed form.

import forgetcli
result = forgetcli.apply("art_styles", output="edited")
forgetcli.generate(["starry night"], model="edited")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetcli.artifact.integrity import verify
    from forgetcli.evaluation import evaluate
    from forgetcli.experiments.comparison import compare
    from forgetcli.experiments.tuning import tune
    from forgetcli.generation.generate import generate
    from forgetcli.pipeline.apply import apply
    from forgetcli.pipeline.inspect import inspect
    from forgetcli.pipeline.revert import revert
    from forgetcli.recipe import load as load_recipe
    from forgetcli.robustness import attack

__version__ = "0.1.0"
__all__ = [
    "apply",
    "attack",
    "compare",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load_recipe",
    "revert",
    "tune",
    "verify",
]

_HOMES = {
    "apply": ("pipeline.apply", "apply"),
    "attack": ("robustness", "attack"),
    "compare": ("experiments.comparison", "compare"),
    "evaluate": ("evaluation", "evaluate"),
    # The package of this name stands here once it is imported; it can be called as the function.
    "export": ("export", "export"),
    "generate": ("generation.generate", "generate"),
    "inspect": ("pipeline.inspect", "inspect"),
    "load_recipe": ("recipe", "load"),
    "revert": ("pipeline.revert", "revert"),
    "tune": ("experiments.tuning", "tune"),
    "verify": ("artifact.integrity", "verify"),
}


def __getattr__(name: str) -> Any:
    """The library's functions, imported when first used: `import forgetcli` alone loads nothing
    heavy.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'forgetcli' has no attribute '{name}'")
    module, function = _HOMES[name]
    home = import_module(f"forgetcli.{module}")
    return home if module == name else getattr(home, function)


def __dir__() -> list[str]:
    """The library's functions, and what every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
