"""Model families: one file each. A family says which sites exist, how prompts are encoded and how the denoiser is called.

A family is a module with

    PIPELINES    the `_class_name`s in model_index.json that it takes
    GUIDANCE     what its pictures are made with, if nothing else is said
    load(base, device, dtype) -> a `forgetcli.models._loaded.LoadedModel`

Modules whose names begin with an underscore are what families share.
"""
from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError, ModelError

if TYPE_CHECKING:
    from forgetcli.checkpoint import Base

DTYPES = ("float32", "float16", "bfloat16")


def families() -> list[str]:
    """Names of all families, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(family: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"{__name__}.{family}")


def family_of(folder: Path) -> str:
    """The family of a diffusers folder, from its model_index.json.

    Raises:
        ModelError: no family takes such pipelines.
    """
    pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    for name in families():
        if pipeline in get(name).PIPELINES:
            return name
    raise ModelError("model.unknown-family", f"{folder} is a {pipeline}, which forget cannot edit yet",
                     f"known families: {', '.join(families())}")


def load(base: Base, *, device: str | None = None, dtype: str | None = None):
    """The model of a resolved base, on the device, ready to be edited."""
    return get(family_of(base.settings)).load(base, pick_device(device), pick_dtype(dtype))


def pick_device(name: str | None):
    """The device asked for, or the best one here: CUDA, MPS, CPU.

    Raises:
        ModelError: the device asked for is not here.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as fault:
        raise ModelError("model.no-device", f"device '{name}' cannot be used here",
                         "leave --device out to have it detected") from fault
    if device.type not in ("cuda", "mps", "cpu"):
        raise ModelError("model.no-device", f"device '{name}' cannot be used", "choose cuda, mps or cpu")
    return device


def pick_dtype(name: str | None):
    """The dtype that the model runs in (the edit itself is always solved in float64); float32 by default.

    Raises:
        ModelError: not one of `DTYPES`.
    """
    import torch

    if name not in (None, *DTYPES):
        raise ModelError("model.no-dtype", f"dtype '{name}' is not known", f"choose one of {', '.join(DTYPES)}")
    return getattr(torch, name or "float32")


@dataclass(frozen=True)
class KnownModel:
    """A model that `--model` can name here."""

    name: str
    family: str
    path: Path
    description: str


def known() -> list[KnownModel]:
    """Models that can be named without a path: the embedded one, and edited folders in the working directory."""
    from forgetcli.checkpoint import resolve
    from forgetcli.demo import MODEL, DESCRIPTION

    found = [KnownModel("demo", "sd", MODEL, DESCRIPTION)] if (MODEL / "model_index.json").exists() else []
    for manifest in sorted(Path.cwd().glob("*/forget.provenance.json")):
        folder = manifest.parent
        try:
            found.append(KnownModel(f"{folder.name}/", family_of(resolve(folder).settings), folder, "edited by forget in this folder"))
        except (ForgetError, OSError, ValueError, KeyError):
            continue                                                  # damaged: nothing that could be named
    return found
