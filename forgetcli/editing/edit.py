"""What an editing method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SiteReport:
    """Figures of one edited site; the keys are those of ``apply --json``. What a method does not
    have is None.

    Attributes:
        name: the layer, as in the model (``encoder.layers.1.mlp.fc2``); of a parameter that is no
            weight, its full name.
        delta_rel: ‖Δ‖_F / ‖W‖_F.
        null_dim: directions that the preserve prompts leave free.
        eig_below, eig_above: eigenvalues of K₀K₀ᵀ on either side of the cut, relative to their
            mean.
        rcond: reciprocal condition number of the edit's linear system.
        preserve_drift: ‖Δ K₀‖_F / ‖W K₀‖_F.
        heldout_drift: the same for prompts that must stay but that the edit did not see; None
            without such prompts.
        fit: ‖Δ K₁ − R‖_F / ‖R‖_F, how much of the wanted change the constraint left out (0 is
            perfect).
        held: tokens of earlier edits that were to stay as they were; None without earlier edits.
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
    """The concept prompts' keys at a site of the edited model: what a later edit has to leave
    alone.

    Attributes:
        columns: distinct keys, shape (d, n).
        counts: how often each occurs, shape (n,).
    """

    columns: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Edit:
    """New weights, and how they came about.

    Attributes:
        weights: (component, parameter) → the new weight, float64. Empty for the control, which
            changes nothing.
        sites: one report a site.
        losses: loss of the method's descent by step, if it has one; of nullspace's joint mode
            relative to the unedited model's, with what the
            change costs.
        moments: the second moments that went in: {"name", "sha256"} each, for the manifest.
        cache: {"hits", "misses"}.
        keys: (component, parameter) → the keys that a later edit has to hold there, for the ledger.
    """

    weights: Mapping[tuple[str, str], Tensor]
    sites: tuple[SiteReport, ...] = ()
    losses: tuple[float, ...] = ()
    moments: tuple[dict, ...] = ()
    cache: Mapping[str, int] = field(default_factory=lambda: {"hits": 0, "misses": 0})
    keys: Mapping[tuple[str, str], Keys] = field(default_factory=dict)
