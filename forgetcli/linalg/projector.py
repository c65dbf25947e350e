"""The projector onto the directions that the preserve prompts do not use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg.spectrum import Spectrum


@dataclass(frozen=True)
class Projector:
    """The projector P = Ũ Ũᵀ, stored as its basis.

    Attributes:
        basis: Ũ, float64, shape (d, r), orthonormal columns.
        eig_below: the largest eigenvalue inside the null space, relative to the mean eigenvalue.
        eig_above: the smallest eigenvalue outside the null space, relative to the mean eigenvalue;
            infinite if everything is inside.
    """

    basis: Tensor
    eig_below: float
    eig_above: float

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    def __call__(self, columns: Tensor) -> Tensor:
        """P applied to columns of shape (d, n)."""
        return self.basis @ (self.basis.T @ columns)

    def matrix(self) -> Tensor:
        """P as a matrix, shape (d, d), for tests and small problems."""
        return self.basis @ self.basis.T

    @staticmethod
    def identity(dim: int) -> Projector:
        """P = I, for an edit that protects nothing (the control)."""
        return Projector(torch.eye(dim, dtype=torch.float64), float("inf"), float("inf"))


def null_projector(moment: Tensor, threshold: float, min_rank: int) -> Projector:
    """The projector onto the directions in which the preserve keys have (almost) no energy.

    With K₀K₀ᵀ = U Σ Uᵀ and Ũ the columns whose eigenvalue is below ``threshold × mean(Σ)``,
    P = ŨŨᵀ is the orthogonal projector with ‖P K₀‖_F² = the sum of those eigenvalues. It bounds
    the effect of an update ΔP on W K₀: ‖Δ P K₀‖_F ≤ ‖Δ‖₂ ‖P K₀‖_F.

    Args:
        moment: K₀K₀ᵀ, float64, shape (d, d), symmetric. The usual thresholds lie below the
            resolution of float32 relative to the largest eigenvalue.
        threshold: the cut, relative to the mean eigenvalue (dimensionless).
        min_rank: the least number of directions, smallest eigenvalues first; capped at d.
    Raises:
        EditError: the moment is not float64, not finite, not symmetric, clearly indefinite, or
            zero.
    Source: Fang et al., AlphaEdit (arXiv 2410.02355), eq. 6–8.
    """
    return null_space(Spectrum.of(moment), threshold, min_rank)


def null_space(spectrum: Spectrum, threshold: float, min_rank: int) -> Projector:
    """`null_projector` of a moment that was decomposed before.

    Raises:
        EditError: the moment is clearly indefinite, or zero.
    """
    eigenvalues = spectrum.eigenvalues
    largest = float(eigenvalues[-1])
    if largest <= 0:
        raise EditError("edit.moment-zero", "the preserve prompts have no energy at this site")
    if float(eigenvalues[0]) < -1e-10 * largest:
        raise EditError(
            "edit.moment-indefinite",
            f"a second moment cannot have the eigenvalue {float(eigenvalues[0]):.1e} "
            f"(largest: {largest:.1e})",
        )
    # After the check above, all negative eigenvalues are rounding errors.
    eigenvalues = eigenvalues.clamp_min(0)
    dim = len(eigenvalues)
    mean = float(eigenvalues.mean())
    rank = min(dim, max(int((eigenvalues < threshold * mean).sum()), min_rank))
    if rank == 0:
        raise EditError(
            "edit.no-null-space",
            "the preserve prompts span everything at this threshold",
            "raise [edit] threshold, or set min_rank above 0",
        )
    return Projector(
        basis=spectrum.vectors[:, :rank].contiguous(),
        eig_below=float(eigenvalues[rank - 1]) / mean,
        eig_above=float(eigenvalues[rank]) / mean if rank < dim else float("inf"),
    )
