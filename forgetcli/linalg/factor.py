"""Cholesky factors, with one error for systems that have none."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcli.errors import EditError


def cholesky(system: Tensor, hint: str, *, what: str = "the linear system of the edit") -> Tensor:
    """The lower factor L of a symmetric positive definite matrix M = LLᵀ.

    Args:
        system: M, float64, shape (d, d).
        hint: the error's hint: what the user can do if M is singular.
        what: the name of M in the error.
    Raises:
        EditError: M is not finite, or not positive definite to working precision.
    """
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed) or not torch.isfinite(factor).all():
        raise EditError("edit.singular", f"{what} is singular to working precision", hint)
    return factor


def reciprocal_condition(system: Tensor) -> float:
    """The smallest eigenvalue of a symmetric positive definite matrix, relative to the largest."""
    eigenvalues = torch.linalg.eigvalsh(system)
    return float(eigenvalues[0] / eigenvalues[-1])
