"""The denoiser's layers that read prompts and nothing else, and edits of them.

These are the key and value layers of cross-attention (`to_k`, `to_v`), or the two layers by which
other transformers read the tokens and the pooled embedding. Layers that have the same input c form
a group. Therefore a closed form that requests W c → W c* is Δ = W T for a whole group, with a map T
that does not depend on W. A bias is not part of it: it is added to both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.context_columns import PairColumns
from forgetcli.editing.context_sources import ContextSource, pooled_embedding, token_states
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.errors import EditError
from forgetcli.linalg import Projector, drift
from forgetcli.models.base import LoadedModel, Site

LAYERS = ("to_k", "to_v")
SOURCES = {"hidden": token_states, "pooled": pooled_embedding}


@dataclass(frozen=True)
class ContextLayers:
    """Layers that have the same input.

    Attributes:
        name: what progress calls them.
        source: their input.
        sites: the layers, in the model's order.
    """

    name: str
    source: ContextSource
    sites: tuple[Site, ...]

    def weight(self, site: Site) -> Tensor:
        """The stored weight of one of the layers, float64, shape (m, d)."""
        return stored_weight(self.source.model.base, site)


def context_layers(model: LoadedModel, layers: Sequence[str] = LAYERS) -> list[ContextLayers]:
    """All layers that read prompts and nothing else, in groups.

    Args:
        layers: which layers of cross-attention. A denoiser without cross-attention has one layer
            for each input, and it is always among those returned.
    Raises:
        EditError: the denoiser has no such layers.
    """
    if model.embedders:
        return [
            ContextLayers(site.name.rpartition(".")[2], SOURCES[kind](model), (site,))
            for kind, site in model.embedders.items()
        ]
    return [cross_attention(model, layers)]


def cross_attention(model: LoadedModel, layers: Sequence[str] = LAYERS) -> ContextLayers:
    """The cross-attention sites as one group.

    Raises:
        EditError: the denoiser has none.
    """
    return ContextLayers("cross-attention", token_states(model), tuple(pick(model, layers)))


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
            "use nullspace with [edit] layers = 'text-encoder', which edits the text encoders, or "
            "uce, rece, speed, mace-cf, oce or dp, which edit the layers that read the prompt",
        )
    return found


def edited(
    group: ContextLayers,
    deltas: Mapping[str, Tensor],
    preserve: Tensor,
    rcond: float | Mapping[str, float] | None = None,
    pairs: PairColumns | None = None,
    heldout: Tensor | None = None,
    null: Mapping[str, Projector] | None = None,
    losses: tuple[float, ...] = (),
) -> Edit:
    """The edit of a group with these changes, and its figures by site.

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
    sites = {site.name: site for site in group.sites}
    for name, delta in deltas.items():
        site = sites[name]
        W = group.weight(site)
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


def joined(edits: Sequence[Edit]) -> Edit:
    """The edits of all groups as one. Of each step's losses it has the largest."""
    first, *others = edits
    if not others:
        return first
    return Edit(
        weights={key: weight for edit in edits for key, weight in edit.weights.items()},
        sites=tuple(site for edit in edits for site in edit.sites),
        losses=tuple(max(step) for step in zip(*(edit.losses for edit in edits), strict=True)),
    )
