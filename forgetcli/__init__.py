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
    from forgetcli.generation.generate import generate
    from forgetcli.pipeline.apply import apply
    from forgetcli.pipeline.revert import revert
    from forgetcli.recipe import load as load_recipe
    from forgetcli.robustness import attack

__version__ = "0.1.0"
__all__ = ["apply", "attack", "compare", "evaluate", "generate", "load_recipe", "revert", "verify"]

_HOMES = {
    "apply": ("pipeline.apply", "apply"),
    "attack": ("robustness", "attack"),
    "compare": ("experiments.comparison", "compare"),
    "evaluate": ("evaluation", "evaluate"),
    "generate": ("generation.generate", "generate"),
    "load_recipe": ("recipe", "load"),
    "revert": ("pipeline.revert", "revert"),
    "verify": ("artifact.integrity", "verify"),
}


def __getattr__(name: str) -> Any:
    """The library's functions, imported when first used: `import forgetcli` alone loads nothing
    heavy.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'forgetcli' has no attribute '{name}'")
    module, function = _HOMES[name]
    return getattr(import_module(f"forgetcli.{module}"), function)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
