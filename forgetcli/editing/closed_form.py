"""The linear problems of the null-space edit at a model's sites, and figures of their solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from forgetcli.checkpoint.base import Base
from forgetcli.editing.decompositions import decomposed
from forgetcli.editing.edit import Keys, SiteReport
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import Moments
from forgetcli.editing.pairs import Pairs
from forgetcli.errors import counted
from forgetcli.linalg import (
    Coordinates,
    EditOperator,
    Moment,
    Projector,
    coordinates,
    drift,
    edit_operator,
    null_space,
)
from forgetcli.models.base import LoadedModel, Site
from forgetcli.models.tensors import read_tensor
from forgetcli.models.tokens import TokenBatch
from forgetcli.progress import Observer


@dataclass(frozen=True)
class SiteProblem:
    """One site's closed form, without the residual.

    Attributes:
        site: the layer.
        weight: W, float64, shape (m, d).
        K1: the concept prompts' distinct keys, float64, shape (d, n).
        counts: how often each occurs, float64, shape (n,).
        operator: A of K₁·√counts.
        weight_cost: normalises the penalty; see `price`.
        held: K_pK_pᵀ of earlier edits, or None.
        vocabulary: second moment of the task's prior, or None without one.
    """

    site: Site
    weight: Tensor
    K1: Tensor
    counts: Tensor
    moment: Moment
    projector: Projector
    operator: EditOperator
    weight_cost: float
    held: Moment | None = None
    vocabulary: Moment | None = None

    @property
    def values(self) -> Tensor:
        """W K₁, shape (m, n): the site's current output without bias."""
        return self.weight @ self.K1

    @property
    def A(self) -> Tensor:
        """Δ = R A for the residual R at distinct tokens: their multiplicity is in here (√m on the
        key and √m on the value).
        """
        return self.counts.sqrt()[:, None] * self.operator.matrix

    def delta(self, residual: Tensor) -> Tensor:
        """Δ, float64, shape (m, d), for R of shape (m, n)."""
        return residual.double() @ self.A

    def coordinates(self, movable: Tensor) -> Coordinates:
        """Coordinates of the changes that residuals at the movable tokens, bool (n,), can make. A
        penalty of 1 is that of replacing the whole weight.
        """
        return coordinates(self.operator, self.counts.sqrt() * movable, self.weight_cost)


@dataclass(frozen=True)
class Solution:
    """A site's change, and the change that was requested.

    Attributes:
        delta: Δ, float64, shape (m, d).
        residual: R = V₁ − W K₁, the requested change at the distinct tokens, float64, shape (m, n).
    """

    delta: Tensor
    residual: Tensor


def pose(
    site: Site,
    batch: TokenBatch,
    keys: Tensor,
    moment: Moment,
    projector: Projector,
    settings: Any,
    held: Moment | None = None,
    vocabulary: Moment | None = None,
    priced: str = "outputs",
) -> SiteProblem:
    """The problem at one site for the keys (n_prompts, length, d) that its input has now."""
    K1 = batch.merge(keys)  # (d, n)
    counts = batch.counts.double()
    unit = float(counts.sum()) if settings.scale == "mean" else 1.0
    weight, lam = site.module.weight.detach().cpu().double(), settings.lam * unit
    words = settings.prior * unit / vocabulary.tokens * vocabulary.matrix if vocabulary else None
    ridges = [matrix for matrix in (held.matrix if held else None, words) if matrix is not None]
    operator = edit_operator(K1 * counts.sqrt(), projector, lam, sum(ridges) if ridges else None)
    if priced == "outputs":
        typical = vocabulary or moment
        words = TYPICAL * unit / typical.tokens * typical.matrix
    weight_cost = price(weight, lam, words)
    return SiteProblem(
        site, weight, K1, counts, moment, projector, operator, weight_cost, held, vocabulary
    )


# Weight of the outputs in the price: the default of nullspace's `[edit] prior`.
TYPICAL = 10.0


def price(weight: Tensor, lam: float, typical: Tensor | None) -> float:
    """λ‖W‖² + tr(W C Wᵀ), C the weighted second moment of typical keys: the unit in which the size
    of a change is counted.

    The penalty itself, tr(Δ M Δᵀ), counts only directions that the preserve prompts leave free.
    There λI is nearly all of M, with a prior of words or without one: (measured on the embedded
    model, tuning concepts) the mean of M's diagonal is 1.01 to 1.21 λ. But nearly all that W puts
    out lies in one direction that all keys share. So tr(W M Wᵀ) is 23 to 36 times as large with
    the words in M as without them, and with it as the unit the same damping would be that much
    stronger without a prior. The preserve prompts' keys have that direction too: with their moment
    in place of the words' the unit is within 7 %.

    K_p is left out, since it grows with every edit: the penalty of the tenth edit equals the
    first's.
    """
    cost = lam * weight.pow(2).sum()
    return float(cost + (((weight @ typical) * weight).sum() if typical is not None else 0))


def stored_weight(base: Base, site: Site) -> Tensor:
    """The site's weight as in the base model's file, float64.

    The weight in memory is rounded to the dtype that the model runs in.
    """
    return read_tensor(base.folder, base.locate(site.component, site.parameter)[0]).double()


def prepare(
    model: LoadedModel,
    sites: Sequence[Site],
    pairs: Pairs,
    moments: Moments,
    settings: Any,
    cache: MomentCache,
    observer: Observer,
    held: Mapping[str, Moment] | None = None,
    vocabulary: Mapping[str, Moment] | None = None,
    priced: str = "outputs",
) -> list[SiteProblem]:
    """The problems of all sites at the unedited model's keys, each with the tokens that its encoder
    reads.

    Args:
        cache: has the eigendecompositions of earlier edits.
        held: K_pK_pᵀ of earlier edits by site name.
        vocabulary: second moments of the task's prior by site name; None without one.
        priced: as `[refine] price`.
    """
    observer.stage("null space", len(sites))
    keys = model.keys(sites, pairs.concepts.ids)
    problems, hits = [], 0
    for site in sites:
        moment = moments.by_site[site.name]
        spectrum, hit = decomposed(moment.matrix, model.base.id, cache)
        hits += hit
        projector = null_space(spectrum, settings.threshold, settings.min_rank)
        problems.append(
            pose(
                site,
                pairs.concepts.of(site.component),
                keys[site.name],
                moment,
                projector,
                settings,
                (held or {}).get(site.name),
                (vocabulary or {}).get(site.name),
                priced,
            )
        )
        observer.advance(null_dim=projector.rank)
    if hits:
        observer.note(f"null space: {counted(hits, 'eigendecomposition')} from the cache")
    return problems


def measure(
    model: LoadedModel,
    problems: list[SiteProblem],
    solutions: dict[str, Solution],
    heldout: TokenBatch | None,
) -> tuple[SiteReport, ...]:
    """Figures of the solutions at each site's unedited keys. All norms are Frobenius, float64."""
    sites = [p.site for p in problems]
    heldout_keys = model.distinct_keys(sites, heldout) if heldout else {}
    reports = []
    for problem in problems:
        name, W = problem.site.name, problem.weight
        delta, residual = solutions[name].delta, solutions[name].residual
        outside = None
        if heldout:
            own = heldout.of(problem.site.component)
            K = heldout_keys[name] * own.counts.double().sqrt()
            outside = drift(delta, W, K)
        root = problem.counts.sqrt()
        requested, done = residual * root, (delta @ problem.K1) * root
        reports.append(
            SiteReport(
                name=name,
                null_dim=problem.projector.rank,
                eig_below=problem.projector.eig_below,
                eig_above=problem.projector.eig_above,
                rcond=problem.operator.rcond,
                delta_rel=float(delta.norm() / W.norm()),
                preserve_drift=drift(delta, W, problem.moment),
                heldout_drift=outside,
                fit=float((done - requested).norm() / requested.norm().clamp_min(1e-300)),
                held=int(problem.held.tokens) if problem.held else None,
                held_drift=drift(delta, W, problem.held) if problem.held else None,
            )
        )
    return tuple(reports)


def keys_after(
    model: LoadedModel,
    sites: Sequence[Site],
    batch: TokenBatch,
    weights: Mapping[tuple[str, str], Tensor],
) -> dict[tuple[str, str], Keys]:
    """The prompts' keys in the *edited* model, which a later edit finds there. At a deeper site,
    the edits of the sites before it have changed them.
    """
    with model.weights(weights):
        keys = model.distinct_keys(sites, batch)
    return {
        (site.component, site.parameter): Keys(keys[site.name], batch.of(site.component).counts)
        for site in sites
    }
