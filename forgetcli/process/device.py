"""Where a model runs and in which dtype: CUDA, MPS or CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.errors import ModelError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")


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


def pick_dtype(name: str | None) -> torch.dtype:
    """The dtype that the model runs in (the edit itself is always solved in float64); float32 by
    default.

    Raises:
        ModelError: not one of `DTYPES`.
    """
    # Imported here: --help and checks of recipes do without torch.
    import torch

    if name not in (None, *DTYPES):
        raise ModelError(
            "model.no-dtype", f"dtype '{name}' is not known", f"choose one of {', '.join(DTYPES)}"
        )
    return getattr(torch, name or "float32")
