"""What forget runs on, for bug reports. torch is imported here, to ask for its devices."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from forgetcli import __version__
from forgetcli.bundled import recipes
from forgetcli.editing import moment_cache
from forgetcli.process import threads

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "typer",
    "rich",
    "pydantic",
)


def forget_version() -> str:
    """The installed version, or that of the checkout it runs from."""
    return __version__


def report() -> dict[str, Any]:
    """Versions, devices, folders; JSON types. What is missing is None."""
    return {
        "forget": forget_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": threads.default(),
        "cache_dir": str(moment_cache.default_folder()),
        "recipes_dir": str(recipes.folder()),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    try:
        import torch
    except ImportError as error:  # A report must also come out of a broken installation.
        return [f"none: torch cannot be imported ({error})"]
    found = [
        f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        for index in range(torch.cuda.device_count())
    ]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]
