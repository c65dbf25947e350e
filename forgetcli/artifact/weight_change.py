"""How far an edit moved the weights that it changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import EditedTensor
from forgetcli.models.tensors import from_bytes


@dataclass(frozen=True)
class WeightChange:
    """The change over all edited tensors together, as they are stored.

    Attributes:
        relative: ‖ΔW‖_F / ‖W‖_F; 0 if nothing was edited.
        norm: ‖ΔW‖_F.
        tensors: how many were edited.
    """

    relative: float
    norm: float
    tensors: int

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `weight_change` in ``eval --json``."""
        return {"relative": self.relative, "norm": self.norm, "tensors": self.tensors}


def weight_change(edited: EditedModel) -> WeightChange:
    """The weight change of an edited folder.

    A parameter that is stored in several forms (``.fp16.``) counts once.

    Raises:
        ModelError: the folder or its base is not what the manifest says.
    """
    tensors: dict[tuple[str, str, int | None], EditedTensor] = {}
    for tensor in edited.manifest.edited:
        tensors.setdefault((tensor.component, tensor.parameter, tensor.third), tensor)
    change = weight = 0.0
    for tensor in tensors.values():
        site = edited.site(tensor)
        before, after = (
            from_bytes(data, site.dtype, site.shape).double()
            for data in (edited.before(tensor), edited.after(tensor))
        )
        change += float((after - before).square().sum())
        weight += float(before.square().sum())
    relative = math.sqrt(change / weight) if weight else 0.0
    return WeightChange(relative, math.sqrt(change), len(tensors))
