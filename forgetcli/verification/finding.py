"""The result of one question about an edited folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forgetcli.artifact.integrity import Problem
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.errors import ModelError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.safetensors import WeightFile

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """The result of one question; any of the three lists may be empty.

    Attributes:
        problems: differences that make the verdict negative.
        proved: statements that were shown to hold.
        not_proved: statements that could not be shown, which is no problem.
    """

    problems: list[Problem] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)


def read_edited(tensor: EditedTensor, weights: WeightFile) -> Tensor:
    """An edited tensor's values in a file of the folder or of its base, float64.

    Raises:
        ModelError: model.changed: the tensor is not where the manifest says.
    """
    site = tensor.site(weights.sites)
    if site is None:
        raise ModelError(
            "model.changed",
            f"tensor '{tensor.key}' is not where the manifest says",
            "apply the recipe again",
        )
    return read_tensor(weights.folder, site).double()
