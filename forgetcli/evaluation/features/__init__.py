"""Feature extractors: one file each. Quality measures compare images by their features.

An extractor is a module, here or behind an entry point of the group ``forgetcli.features``, with
``load(device) -> Extractor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from forgetcli import plugins

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "forgetcli.features"


class Extractor(Protocol):
    """A network that describes images by features.

    Attributes:
        size: d, the number of features.
    """

    @property
    def size(self) -> int: ...

    def identity(self) -> dict[str, Any]:
        """Name and weight digest. Recorded with every figure."""

    def vectors(self, images: Tensor) -> Tensor:
        """Features for FID and KID: uint8 (n, 3, h, w) → float (n, d)."""

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance (LPIPS or similar) of each pair of images in two batches → (n,)."""


def names() -> list[str]:
    """All feature extractors, sorted."""
    return plugins.names(__name__, GROUP)


def load(name: str, device: str | None = None) -> Extractor:
    """The extractor called `name`.

    Raises:
        ForgetError: there is none, or it cannot be loaded.
    """
    module = plugins.find(__name__, GROUP, name, "features.unknown", "feature extractor")
    extractor: Extractor = module.load(device)
    return extractor
