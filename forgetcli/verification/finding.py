"""The result of one question about an edited folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forgetcli.artifact.integrity import Problem
from forgetcli.artifact.manifest import EditedTensor
from forgetcli.errors import ModelError
from forgetcli.storage.safetensors import TensorSite


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


def place_of(tensor: EditedTensor, header: Mapping[str, TensorSite]) -> TensorSite:
    """The place of an edited tensor in a file with this header.

    Raises:
        ModelError: model.changed: it is not where the manifest says.
    """
    site = tensor.site(header)
    if site is None:
        raise ModelError(
            "model.changed",
            f"tensor '{tensor.key}' is not where the manifest says",
            "apply the recipe again",
        )
    return site
