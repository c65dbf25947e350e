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

    Figures that a method does not have are None.

    Attributes:
        name: the layer, as in the model (``encoder.layers.1.mlp.fc2``); the full name of a
            parameter that is not called weight.
        delta_rel: ‖Δ‖_F / ‖W‖_F.
        null_dim: directions that the preserve prompts leave free.
        eig_below, eig_above: eigenvalues of K₀K₀ᵀ on either side of the cut, relative to their
            mean.
        rcond: reciprocal condition number of the edit's linear system.
        preserve_drift: ‖Δ K₀‖_F / ‖W K₀‖_F.
        heldout_drift: the same for prompts that should stay but that the edit did not use; None
            without such prompts.
        fit: ‖Δ K₁ − R‖_F / ‖R‖_F, the fraction of the requested change that the constraint
            prevented (0 is a perfect fit).
        held: number of tokens of earlier edits that were protected; None without earlier edits.
        held_drift: ‖Δ K_p‖_F / ‖W K_p‖_F at their keys K_p.
    """

    name: str
    delta_rel: float
    null_dim: int | None = None
    eig_below: float | None = None
    eig_above: float | None = None
    rcond: float | None = None
    preserve_drift: float | None = None
    heldout_drift: float | None = None
    fit: float | None = None
    held: int | None = None
    held_drift: float | None = None


@dataclass(frozen=True)
class Keys:
    """Layer inputs for the concept prompts, recorded after the edit.

    Later edits must keep the layer's output for these inputs.

    Attributes:
        columns: distinct keys, shape (d, n).
        counts: how often each occurs, shape (n,).
    """

    columns: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Edit:
    """New weights and the figures of the edit.

    Attributes:
        weights: (component, parameter) → the new weight, float64. Empty for the control.
        sites: one report a site.
        losses: loss of the method's descent by step, if it has one. In nullspace's joint mode it is
            relative to the unedited model's and includes the penalty of the change.
        moments: the second moments that were used: {"name", "sha256"} each, for the manifest.
        cache: {"hits", "misses"} of the second moments.
        keys: (component, parameter) → the keys that later edits must protect, for the ledger.
        attacks: attacks on the model during the edit, as rows of the report; none for most methods.
        drift_limit: what the check accepts as the drift of preserve prompts; None: `WRECKED`.
    """

    weights: Mapping[tuple[str, str], Tensor]
    sites: tuple[SiteReport, ...] = ()
    losses: tuple[float, ...] = ()
    moments: tuple[dict, ...] = ()
    cache: Mapping[str, int] = field(default_factory=lambda: {"hits": 0, "misses": 0})
    keys: Mapping[tuple[str, str], Keys] = field(default_factory=dict)
    attacks: tuple[dict, ...] = ()
    drift_limit: float | None = None
