"""Features of the bundled model's judge: offline, and trained on 64×64 drawings.

Figures are comparable only with other figures of this extractor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forgetcli.evaluation.judges.demo import DemoJudge

if TYPE_CHECKING:
    from torch import Tensor


class DemoFeatures:
    """The judge's convolutions, before its heads."""

    size = 192

    def __init__(self, device: str | None) -> None:
        self.judge = DemoJudge(device)

    def identity(self) -> dict[str, Any]:
        return {
            "name": "demo",
            "digest": self.judge.identity()["digest"],
            "distance": (
                "unit-normalised features of all blocks, squared difference, mean over places, "
                "sum over blocks; no learned weights"
            ),
        }

    def vectors(self, images: Tensor) -> Tensor:
        """The last block's features, averaged over positions: (n, d)."""
        return self._layers(images)[-1].mean((2, 3))

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """The form of LPIPS (Zhang et al., arXiv 1801.03924, eq. 1) with all channel weights 1."""
        import torch
        import torch.nn.functional as F

        distances = torch.zeros(len(a), device=self.judge.device)
        for x, y in zip(self._layers(a), self._layers(b)):
            difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            distances = distances + (difference**2).sum(1).mean((1, 2))
        return distances

    def _layers(self, images: Tensor) -> list[Tensor]:
        import torch
        import torch.nn.functional as F

        network = self.judge.network
        with torch.no_grad():
            x = images.to(self.judge.device).float() / 127.5 - 1
            if x.shape[-2:] != (64, 64):
                x = F.interpolate(x, (64, 64), mode="bilinear", antialias=True)
            layers = [F.relu(network.stem(x))]
            for block in network.blocks:
                layers.append(block(layers[-1]))
        return layers


def load(device: str | None = None) -> DemoFeatures:
    return DemoFeatures(device)
