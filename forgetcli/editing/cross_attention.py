"""Edits of the cross-attention's key and value layers (`to_k`, `to_v`).

All these layers have the same input, the context c of a token. Therefore a closed form that
requests W c → W c* is Δ = W T with a map T that does not depend on W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.context_columns import PairColumns
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.errors import EditError
from forgetcli.linalg import Projector, drift
from forgetcli.models.base import LoadedModel, Site

LAYERS = ("to_k", "to_v")


def pick(model: LoadedModel, layers: Sequence[str] = LAYERS) -> list[Site]:
    """The cross-attention sites whose last name is one of `layers`, in the model's order.

    Raises:
        EditError: the denoiser has none.
    """
    found = [
        site for name, site in model.cross_attention.items() if name.rpartition(".")[2] in layers
    ]
    if not found:
        raise EditError(
            "edit.no-cross-attention",
            "the denoiser has no cross-attention that could be edited",
            "use a method that edits the text encoder: nullspace",
        )
    return found


def edited(
    model: LoadedModel,
    deltas: Mapping[str, Tensor],
    preserve: Tensor,
    rcond: float | Mapping[str, float] | None = None,
    pairs: PairColumns | None = None,
    heldout: Tensor | None = None,
    null: Mapping[str, Projector] | None = None,
    losses: tuple[float, ...] = (),
) -> Edit:
    """The edit with these changes and its figures by site.

    Args:
        deltas: site name → Δ, float64, shape (m, d).
        preserve: contexts that the edit preserves, shape (d, n).
        rcond: reciprocal condition number of the linear system, for all sites or by site.
        pairs: the requested change W c → W c*.
        heldout: contexts that should stay and that the edit did not use, shape (d, n).
        null: each site's projector, if the edit has one.
        losses: see `Edit`.
    """
    weights, reports = {}, []
    for name, delta in deltas.items():
        site = model.cross_attention[name]
        W = stored_weight(model.base, site)
        fit = None
        if pairs is not None:
            requested = W @ (pairs.targets - pairs.concepts)
            fit = float(
                (delta @ pairs.concepts - requested).norm() / requested.norm().clamp_min(1e-300)
            )
        weights[site.component, site.parameter] = W + delta
        projector = null[name] if null else None
        reports.append(
            SiteReport(
                name,
                float(delta.norm() / W.norm()),
                fit=fit,
                rcond=rcond[name] if isinstance(rcond, Mapping) else rcond,
                preserve_drift=drift(delta, W, preserve),
                heldout_drift=None if heldout is None else drift(delta, W, heldout),
                null_dim=projector.rank if projector else None,
                eig_below=projector.eig_below if projector else None,
                eig_above=projector.eig_above if projector else None,
            )
        )
    return Edit(weights, tuple(reports), losses=losses)
