"""The features of published figures: InceptionV3 for FID and KID, LPIPS with AlexNet.

They are meant for photographs of full size. Their libraries download the weights at first use.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from forgetcli.errors import ForgetError
from forgetcli.process.device import pick_device

if TYPE_CHECKING:
    from torch import Tensor

HINT = (
    "pip install 'forgetcli[quality]', and let it fetch their weights once; or use --features demo"
)


class InceptionFeatures:
    """pool3 of TensorFlow's InceptionV3 (torch-fidelity's port), and LPIPS v0.1 on AlexNet."""

    size = 2048

    def __init__(self, device: str | None) -> None:
        self.device = pick_device(device)
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.network = (
                NoTrainInceptionV3("inception-v3-compat", [str(self.size)]).to(self.device).eval()
            )
            self.lpips = LearnedPerceptualImagePatchSimilarity("alex", reduction="none").to(
                self.device
            )
        except (ImportError, OSError, RuntimeError) as fault:
            raise ForgetError(
                "features.unavailable",
                f"InceptionV3 and LPIPS cannot be loaded: {str(fault).splitlines()[0]}",
                HINT,
            ) from fault

    def identity(self) -> dict[str, Any]:
        """The networks and the versions of the packages that bring them."""
        return {
            "name": "inception",
            "network": "inception-v3-compat, pool3",
            "distance": "LPIPS v0.1, AlexNet",
            "torchmetrics": version("torchmetrics"),
            "torch-fidelity": version("torch-fidelity"),
        }

    def vectors(self, images: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            vectors: Tensor = self.network(images.to(self.device))
        return vectors

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            return torch.stack(
                [
                    self.lpips(
                        x[None].to(self.device).float() / 127.5 - 1,
                        y[None].to(self.device).float() / 127.5 - 1,
                    )
                    for x, y in zip(a, b)
                ]
            ).flatten()


def load(device: str | None = None) -> InceptionFeatures:
    return InceptionFeatures(device)
