"""Model families: one file each. A family says which sites exist, how prompts are encoded and how
the denoiser is called.

A family is a module of `forgetcli.models.families` with

    PIPELINES    the `_class_name`s in model_index.json that it takes
    GUIDANCE     what its pictures are made with, if nothing else is said
    load(base, device, dtype) -> a `forgetcli.models.base.LoadedModel`

The other modules of this package are what families share.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from forgetcli.device import pick_device, pick_dtype
from forgetcli.errors import ForgetError, ModelError
from forgetcli.models import families

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base


def family_names() -> list[str]:
    """Names of all families, sorted."""
    return families.names()


def get(family: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"{families.__name__}.{family}")


def family_of(folder: Path) -> str:
    """The family of a diffusers folder, from its model_index.json.

    Raises:
        ModelError: no family takes such pipelines.
    """
    pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    for name in family_names():
        if pipeline in get(name).PIPELINES:
            return name
    raise ModelError(
        "model.unknown-family",
        f"{folder} is a {pipeline}, which forget cannot edit yet",
        f"known families: {', '.join(family_names())}",
    )


def load(base: Base, *, device: str | None = None, dtype: str | None = None):
    """The model of a resolved base, on the device, ready to be edited."""
    return get(family_of(base.settings)).load(base, pick_device(device), pick_dtype(dtype))


@dataclass(frozen=True)
class KnownModel:
    """A model that `--model` can name here."""

    name: str
    family: str
    path: Path
    description: str


def known() -> list[KnownModel]:
    """Models that can be named without a path: the embedded one, and edited folders in the working
    directory.
    """
    from forgetcli.bundled.demo import DESCRIPTION, MODEL
    from forgetcli.checkpoint.base import resolve

    found = (
        [KnownModel("demo", "sd", MODEL, DESCRIPTION)]
        if (MODEL / "model_index.json").exists()
        else []
    )
    for manifest in sorted(Path.cwd().glob("*/forget.provenance.json")):
        folder = manifest.parent
        try:
            found.append(
                KnownModel(
                    f"{folder.name}/",
                    family_of(resolve(folder).settings),
                    folder,
                    "edited by forget in this folder",
                )
            )
        except (ForgetError, OSError, ValueError, KeyError):
            continue  # damaged: nothing that could be named
    return found
