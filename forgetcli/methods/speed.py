"""SPEED: a null-space edit of the cross-attention values, whose null space is that of the prompts
it would harm.

    Δ = W (S_at − S_tt) P [I − M K₂ (K₂ᵀ P M K₂ + λI)⁻¹ K₂ᵀ P] M,  M = (S_tt P + αI)⁻¹,  S_at = mean
    c*cᵀ,  S_tt = mean ccᵀ

c are the concepts' contexts, c* the targets'. Three things refine the prior, layer by layer, since
W differs:
filtering keeps the preserve prompts that the same edit without protection, W (S_at − S_tt)(I +
S_tt)⁻¹, would move by more
than the mean; augmentation adds copies of them with noise along the directions that W hardly passes
on (and filters those
alike); P projects onto the null space of their second moment. K₂, the start token and means of the
empty prompt's contexts,
does not move at all, since every picture is made with it.
Li et al., SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models (arXiv
2503.07392).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.progress import Observer

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    alpha: Weight = Field(
        1.0,
        description="α: larger is gentler; published: 1 for few concepts, 0.7 for nudity, 0.05 for many concepts",
    )
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0,
        description="λ: softens the constraint on the empty prompt; published: 0, 0.5 for nudity",
    )
    threshold: Weight = Field(
        0.1, description="null space: eigenvalues below threshold × mean eigenvalue"
    )
    min_rank: Count = Field(0, description="never fewer null directions than this")
    invariants: Count = Field(
        3,
        description="means of the empty prompt's contexts that must not move, beside the start token",
    )
    layers: Literal["values", "keys", "both"] = Field(
        "values", description="cross-attention layers that are edited"
    )
    positions: Literal["last", "from-last", "all"] = Field(
        "last",
        description="tokens that are edited: the last of the subject, or also all after it, or all (published for nudity)",
    )


class PriorSettings(BaseModel):
    """Which preserve prompts make the null space."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    filter: bool = Field(
        True,
        description="keep those that the edit would move by more than the mean; published: false for many concepts",
    )
    copies: Count = Field(10, description="noisy copies of each that is kept")
    directions: Annotated[int, Field(ge=1)] = Field(
        1, description="singular directions of W, the weakest ones, along which the copies differ"
    )


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    prior: PriorSettings = PriorSettings()


LAYERS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}


SEARCH = {
    "edit.alpha": Range(1e-2, 1e1, log=True),
    "edit.threshold": Range(1e-3, 1.0, log=True),
    "edit.layers": Choice(("values", "both")),
    "edit.positions": Choice(("last", "from-last", "all")),
    "prior.filter": Choice((True, False)),
}


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the recipe, solved together.

    Raises:
        EditError: a prompt is too long, the prior leaves no null space, or the linear algebra
            cannot be done.
    """
    import torch

    from forgetcli.editing.closed_form import stored_weight
    from forgetcli.editing.cross_attention import (
        edited,
        heldout_columns,
        pair_columns,
        pick,
        prompt_columns,
    )
    from forgetcli.linalg import centroids, constrained_map

    settings, sites = parameters.edit, pick(model, LAYERS[parameters.edit.layers])
    observer.stage("cross-attention", len(sites))
    pairs = pair_columns(model, task.pairs, settings.positions)
    preserve = prompt_columns(model, task.preserve, settings.positions, pairs)  # (d, p)
    empty = prompt_columns(model, [""], "all")  # (d, length), the start token first
    K2 = (
        torch.cat([empty[:, :1], centroids(empty[:, 1:], settings.invariants)], 1)
        if settings.invariants
        else empty[:, :1]
    )
    root = pairs.concepts.shape[1] ** 0.5
    C, C_star = pairs.concepts / root, pairs.targets / root  # CCᵀ and C*Cᵀ are the means
    generator = torch.Generator().manual_seed(task.seed)
    deltas, rcond, projectors = {}, {}, {}
    for site in sites:
        W = stored_weight(model.base, site)
        projectors[site.name] = prior(W, C, C_star, preserve, parameters, generator)
        solved = constrained_map(C, C_star, projectors[site.name], K2, settings.alpha, settings.lam)
        deltas[site.name], rcond[site.name] = W @ solved.matrix, solved.rcond
        observer.advance(null_dim=projectors[site.name].rank)
    return edited(
        model,
        deltas,
        preserve,
        rcond,
        pairs,
        heldout_columns(model, task.heldout, settings.positions),
        projectors,
    )


def prior(W, C, C_star, preserve, parameters: Parameters, generator):
    """P of one layer: the null space of the preserve columns, refined as the recipe's [prior] says.

    Args:
        W: float64, shape (m, d).
        C, C_star: the concepts' and targets' contexts, scaled so that CCᵀ is their mean moment,
            shape (d, n).
        preserve: shape (d, p).
    """
    import torch

    from forgetcli.linalg import Projector, augmented, most_moved, null_projector, ridge_map

    if preserve.shape[1] == 0:
        return Projector.identity(len(C))
    plain = (
        W @ ridge_map(C, C_star, preserve[:, :0], lam=1.0).matrix
    )  # what would be done without protection
    kept = most_moved(preserve, plain) if parameters.prior.filter else preserve
    if parameters.prior.copies:
        copies = augmented(kept, W, parameters.prior.copies, parameters.prior.directions, generator)
        kept = torch.cat([kept, most_moved(copies, plain)], 1)
    return null_projector(
        kept @ kept.T / kept.shape[1], parameters.edit.threshold, parameters.edit.min_rank
    )
