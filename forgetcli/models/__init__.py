"""Diffusion models in memory. A model family is one module of `forgetcli.models.families`.

What such a module offers is the protocol `Family`. The other modules of this package are what
families share. This package and the families import without torch: recipes are checked, and the
family of a folder is found, without loading it.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from forgetcli.device import pick_device, pick_dtype
from forgetcli.errors import ModelError
from forgetcli.models import families

if TYPE_CHECKING:
    import torch

    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel


class Family(Protocol):
    """A family's module. Its file name is the name of the family.

    Attributes:
        PIPELINES: the values of ``_class_name`` in model_index.json that belong to the family.
        GUIDANCE: the default guidance scale of images from models of this family.
    """

    PIPELINES: tuple[str, ...]
    GUIDANCE: float

    def load(self, base: Base, device: torch.device, dtype: torch.dtype) -> LoadedModel:
        """The model of `base`. Components are read when first used."""
        ...


def family_names() -> list[str]:
    """Names of all families, sorted."""
    return families.names()


def get(family: str) -> Family:
    """The module of a family."""
    return cast(Family, importlib.import_module(f"{families.__name__}.{family}"))


def family_of(folder: Path) -> str:
    """The family of a diffusers folder, from its model_index.json.

    Raises:
        ModelError: model.unknown-family: the folder's pipeline class belongs to no family.
    """
    pipeline = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    for name in family_names():
        if pipeline in get(name).PIPELINES:
            return name
    raise ModelError(
        "model.unknown-family",
        f"{folder} is a {pipeline}, which forget cannot edit yet",
        f"known families: {', '.join(family_names())}",
    )


def load(base: Base, *, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """The model of a resolved base, on the device, ready to be edited.

    Args:
        device: default: the best one of this machine.
        dtype: one of `forgetcli.device.DTYPES`; default: float32.
    Raises:
        ModelError: the family, the device or the dtype is unknown.
    """
    family = get(family_of(base.settings))
    return family.load(base, pick_device(device), pick_dtype(dtype))
