"""Where a model runs and in which dtype: CUDA, MPS or CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.errors import ModelError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
MIXED = "mixed"
DTYPES = ("float32", "float16", "bfloat16", MIXED)
HALVES = {"F16": "float16", "BF16": "bfloat16"}  # as safetensors names the dtypes
# Denoisers with fewer parameters run in float32 on every device, because half precision would save
# them nothing. The embedded model's has 5 million, Stable Diffusion 1.4's 860 million.
LARGE_DENOISER = 100_000_000


def pick_device(name: str | None) -> torch.device:
    """The requested device, or the best one available: CUDA, MPS, CPU.

    Raises:
        ModelError: the requested device is not available.
    """
    # Imported here: --help and checks of recipes do without torch.
    import torch

    if name is None:
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as fault:
        raise ModelError(
            "model.no-device",
            f"device '{name}' cannot be used here",
            "leave --device out to have it detected",
        ) from fault
    if device.type not in ("cuda", "mps", "cpu"):
        raise ModelError(
            "model.no-device", f"device '{name}' cannot be used", "choose cuda, mps or cpu"
        )
    return device


@dataclass(frozen=True)
class Dtypes:
    """The dtypes that a model runs in. The algebra of an edit is in float64 whatever they are.

    Attributes:
        encoders: of the text encoders.
        others: of denoiser and VAE.
    """

    encoders: torch.dtype
    others: torch.dtype

    @property
    def name(self) -> str:
        """One of `DTYPES`."""
        same = self.encoders == self.others
        return str(self.others).removeprefix("torch.") if same else MIXED


def pick_dtypes(name: str) -> Dtypes:
    """The dtypes of a name of `DTYPES`; `mixed`: float32 for the text encoders, else bfloat16.

    Raises:
        ModelError: not one of `DTYPES`.
    """
    # Imported here: --help and checks of recipes do without torch.
    import torch

    if name not in DTYPES:
        raise ModelError(
            "model.no-dtype",
            f"dtype '{name}' is not known",
            f"choose one of {', '.join((AUTO, *DTYPES))}",
        )
    if name == MIXED:
        return Dtypes(torch.float32, torch.bfloat16)
    return Dtypes(getattr(torch, name), getattr(torch, name))


def default_dtype(device: str, half: str, stored: str, parameters: int, *, exact: bool) -> str:
    """The dtype that a model runs in if the user names none: one of `DTYPES`.

    Float32 on the CPU, and on Apple GPUs, where diffusers' guide loads models without a dtype. On
    CUDA, images are generated in the half precision that the model is published for. Edits and
    attacks are more exact: gradients of a loss that is a mean over latents fall below float16's
    smallest number, and a text encoder in bfloat16 moves an edit by a tenth (docs/numerics.md).
    bfloat16 has float32's range, so that there only the text encoders run in float32.

    Args:
        device: the device's type.
        half: the half precision that models of the family are used in.
        stored: dtype of the denoiser's weights, as safetensors names it.
        parameters: of the denoiser.
        exact: the model is edited or attacked.
    """
    if device != "cuda" or parameters < LARGE_DENOISER:
        return "float32"
    # Where float16 overflows, it does so whatever the file has.
    usual = half if half == "bfloat16" else HALVES.get(stored, half)
    if not exact:
        return usual
    return MIXED if usual == "bfloat16" else "float32"
