"""Model families, one module each. Every module implements the protocol `Family`.

Families are listed and identified without torch, because recipes are checked without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from forgetcli.errors import ModelError

if TYPE_CHECKING:
    import torch

    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel


class Family(Protocol):
    """The module of a family. Its file name is the family's name.

    Attributes:
        PIPELINES: the values of ``_class_name`` in model_index.json that belong to the family.
        GUIDANCE: the default guidance scale for generating images.
        HALF: the half precision that models of the family are used in: float16, or bfloat16 if they
            overflow in float16.
    """

    PIPELINES: tuple[str, ...]
    GUIDANCE: float
    HALF: str

    def load(self, base: Base, device: torch.device, dtype: torch.dtype) -> LoadedModel:
        """Load the model of `base`. Its components are read when they are first used."""
        ...


def names() -> list[str]:
    """The names of all families, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(family: str) -> Family:
    """The module of a family."""
    return cast(Family, importlib.import_module(f"{__name__}.{family}"))


def family_of(folder: Path) -> str:
    """The family of a diffusers folder, from its model_index.json.

    Raises:
        ModelError: model.unknown-family: the folder's pipeline class belongs to no family;
            model.not-a-model.
    """
    # Here because names of families are checked without any model.
    from forgetcli.checkpoint import pipeline_index

    pipeline = pipeline_index.read(folder).class_name
    for name in names():
        if pipeline in get(name).PIPELINES:
            return name
    raise ModelError(
        "model.unknown-family",
        f"{folder} is a {pipeline}, which forget cannot edit yet",
        f"known families: {', '.join(names())}",
    )
