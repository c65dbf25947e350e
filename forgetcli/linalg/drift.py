"""How far a change of a weight moves the layer's outputs."""

from __future__ import annotations

from torch import Tensor

from forgetcli.linalg.moment import Moment


def drift(delta: Tensor, weight: Tensor, keys: Tensor | Moment) -> float:
    """‖ΔK‖_F / ‖WK‖_F: the relative change of the layer's outputs for the inputs K.

    Args:
        delta: Δ, float64, shape (m, d).
        weight: W, float64, shape (m, d).
        keys: K, shape (d, n), or its second moment KKᵀ, which determines both norms.
    """
    if isinstance(keys, Moment):
        M = keys.matrix
        moved = ((delta @ M) * delta).sum().clamp_min(0)
        return float((moved / ((weight @ M) * weight).sum()).sqrt())
    return float((delta @ keys).norm() / (weight @ keys).norm().clamp_min(1e-300))
