"""The features that published figures use: InceptionV3 for FID and KID, LPIPS with AlexNet. For
photographs of real size.

Both sets of weights are fetched by their libraries when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from torch import Tensor

HINT = (
    "pip install 'forgetcli[quality]', and let it fetch their weights once; or use --features demo"
)


class InceptionFeatures:
    """pool3 of the TensorFlow InceptionV3 (torch-fidelity's port), and LPIPS v0.1 on AlexNet
    (torchmetrics).
    """

    size = 2048

    def __init__(self, device: str | None) -> None:
        from forgetcli.device import pick_device

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
        except (ImportError, ModuleNotFoundError, OSError, RuntimeError) as fault:
            raise ForgetError(
                "features.unavailable",
                f"InceptionV3 and LPIPS cannot be loaded: {str(fault).splitlines()[0]}",
                HINT,
            ) from fault

    def identity(self) -> dict:
        from importlib.metadata import version

        return {
            "name": "inception",
            "network": "inception-v3-compat, pool3",
            "distance": "LPIPS v0.1, AlexNet",
            "torchmetrics": version("torchmetrics"),
            "torch-fidelity": version("torch-fidelity"),
        }

    def vectors(self, pictures: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            return self.network(pictures.to(self.device))

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
