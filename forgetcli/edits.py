"""What an editing method returns."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SiteReport:
    """Figures of one edited site; the keys are those of ``apply --json``.

    Attributes:
        name: the layer, as in the model (``encoder.layers.1.mlp.fc2``).
        null_dim: directions that the preserve prompts leave free.
        eig_below, eig_above: eigenvalues of K₀K₀ᵀ on either side of the cut, relative to their mean.
        rcond: reciprocal condition number of the edit's linear system.
        delta_rel: ‖Δ‖_F / ‖W‖_F.
        preserve_drift: ‖Δ K₀‖_F / ‖W K₀‖_F.
        heldout_drift: the same for prompts that must stay but that the edit did not see; None without such prompts.
        fit: ‖Δ K₁ − R‖_F / ‖R‖_F, how much of the wanted change the constraint left out (0 is perfect).
    """

    name: str
    null_dim: int
    eig_below: float
    eig_above: float
    rcond: float
    delta_rel: float
    preserve_drift: float
    heldout_drift: float | None
    fit: float


@dataclass(frozen=True)
class Edit:
    """New weights, and how they came about.

    Attributes:
        weights: (component, parameter) → the new weight, float64.
        sites: one report a site.
        losses: refinement loss by step.
        moments: the second moments that went in: {"name", "sha256"} each, for the manifest.
        cache: {"hits", "misses"}.
    """

    weights: Mapping[tuple[str, str], Tensor]
    sites: tuple[SiteReport, ...]
    losses: tuple[float, ...] = ()
    moments: tuple[dict, ...] = ()
    cache: Mapping[str, int] = field(default_factory=lambda: {"hits": 0, "misses": 0})
