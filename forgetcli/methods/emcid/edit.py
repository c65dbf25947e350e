"""The algorithm of EMCID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from forgetcli.editing.alignment import pieces, subject_ends
from forgetcli.editing.closed_form import keys_after, stored_weight
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.editing.moments import counted, preserve_moments, prior_moments
from forgetcli.editing.objectives import Matcher
from forgetcli.editing.pairs import Pairs
from forgetcli.editing.refine import descend_once, shifted
from forgetcli.editing.task import Task
from forgetcli.errors import EditError
from forgetcli.linalg import Moment, drift, spread_edit
from forgetcli.methods.emcid import EditSettings, Parameters, RefineSettings
from forgetcli.models.base import LoadedModel, Site
from forgetcli.progress import Observer

BATCH = 64  # prompts encoded at a time


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, the descent diverged, or a linear
            system cannot be solved.
    """
    if len(model.encoders) > 1:
        raise EditError(
            "edit.several-encoders",
            f"emcid edits a model's only text encoder, and {model.base.id} has "
            f"{len(model.encoders)}",
            "use method nullspace, which edits several together",
        )
    settings = parameters.edit
    sites = model.pick_sites(settings.sites or sorted(model.sites)[:-1][-settings.blocks :])
    pairs = subject_pairs(model.tokenizer, task.pairs, settings.positions)
    moments = preserve_moments(
        model,
        sites,
        task.preserve,
        task.moments,
        observer,
        balance_empty=settings.balance_empty,
        shared=task.shared,
    )
    held = moments.by_site
    words = prior_moments(model, sites, task, observer) if settings.prior else None
    if words:
        held = {
            name: moment + words.by_site[name].times(settings.prior)
            for name, moment in held.items()
        }
    values, losses = find_values(model, sites[-1], pairs, parameters.refine, task.seed, observer)
    deltas, reports = spread(model, sites, pairs, values, held, settings, observer)
    used = [moments, words] if words else [moments]
    weights = {
        (site.component, site.parameter): stored_weight(model.base, site) + deltas[site.name]
        for site in sites
    }
    return Edit(
        weights=weights,
        sites=reports,
        losses=tuple(losses),
        moments=moments.materials,
        cache=counted(used),
        keys=keys_after(model, sites, pairs.concepts, weights),
    )


def subject_pairs(tokenizer: Any, prompts: Sequence[tuple[str, str]], positions: str) -> Pairs:
    """The edit pairs, with only the subject's last token (and all after it) movable."""
    pairs = Pairs.of(tokenizer, prompts, "all")
    owner = pairs.concepts.owner
    movable = torch.zeros_like(pairs.movable)
    rows = zip(pairs.concepts.ids.tolist(), pairs.targets.ids.tolist())
    for row, (concept, target) in enumerate(rows):
        end, _ = subject_ends(pieces(tokenizer, concept), pieces(tokenizer, target))
        stop = end + 1 if positions == "last" else len(concept)
        movable[owner[row, end:stop]] = True
    return replace(pairs, movable=movable)


def find_values(
    model: LoadedModel,
    site: Site,
    pairs: Pairs,
    settings: RefineSettings,
    seed: int,
    observer: Observer,
) -> tuple[Tensor, list[float]]:
    """v*: what the site's block should output at each distinct token, and the loss by step.

    Tokens that are not movable keep their values. The change is made to the MLP's output, which
    the block adds to its input.

    Returns:
        v*, float64, shape (m, distinct), and one loss per step.
    """
    start = pairs.concepts.merge(block_outputs(model, site, pairs.concepts.ids))  # (m, distinct)
    movable = pairs.movable
    norms = start[:, movable].norm(dim=0).float().to(model.device)  # (moved,)
    # The unit in which the descent counts.
    size = (
        start[:, movable].pow(2).mean().sqrt()
        if settings.units == "relative"
        else start.new_ones(())
    )
    moved = torch.zeros((len(start), int(movable.sum())), device=model.device, requires_grad=True)
    matcher = Matcher.of(model, pairs, settings, seed, observer)
    objective = Objective(model, matcher, moved, norms / float(size), settings)
    optimiser = torch.optim.Adam([moved], lr=settings.lr)
    columns = movable.nonzero().flatten().to(model.device)
    losses = []
    observer.stage("refinement", settings.steps)
    for _ in range(settings.steps):
        shift = torch.zeros(start.shape, device=model.device).index_copy(1, columns, moved * size)
        with shifted(site.module, matcher, shift):
            losses.append(descend_once(objective, optimiser))
        with torch.no_grad():
            objective.clamp()
        observer.advance(loss=losses[-1])
    values = start.clone()
    values[:, movable] += moved.detach().cpu().double() * size
    return values, losses


class Objective:
    """The loss of the descent: the denoiser's predictions, the encoder's summaries, and the size
    of the change.

    Attributes:
        moved: the change at the movable tokens in units of the outputs' size, shape (m, moved).
        norms: norms of the unedited outputs there, in the same units, shape (moved,).
        ends: position of each concept prompt's first end-of-text token, CLIP's summary, shape (n,).
        summaries: the targets' contexts at their end-of-text tokens, shape (n, d).
    """

    def __init__(
        self,
        model: LoadedModel,
        matcher: Matcher,
        moved: Tensor,
        norms: Tensor,
        settings: RefineSettings,
    ) -> None:
        concepts, targets = matcher.pairs.concepts.ids, matcher.pairs.targets.ids
        end = model.tokenizer.eos_token_id
        self.model = model
        self.matcher = matcher
        self.moved = moved
        self.norms = norms
        self.settings = settings
        self.ends = (concepts == end).int().argmax(1)
        self.summaries = matcher.target_context.hidden[
            range(len(targets)), (targets == end).int().argmax(1)
        ]

    def loss(self) -> Tensor:
        """The loss for a new batch of noisy images."""
        loss, rows = self.matcher.loss(), self.matcher.rows
        if self.settings.align:
            context = self.model.encode(self.matcher.pairs.concepts.ids[rows])
            found = context.hidden[range(len(rows)), self.ends[rows]]
            distance = mse_loss(found.float(), self.summaries[rows].float())
            loss = loss + self.settings.align * distance
        # The constant: a norm has no gradient at zero, where the descent begins.
        sizes = (self.moved.pow(2).sum(0) + 1e-12).sqrt()
        scale = self.norms if self.settings.units == "relative" else self.norms.square()
        return loss + self.settings.decay * (sizes / scale).mean()

    def clamp(self) -> None:
        """Limit every token's change to the allowed fraction of its unedited output's norm."""
        largest = self.settings.clamp * self.norms
        self.moved.mul_((largest / self.moved.norm(dim=0).clamp_min(1e-12)).clamp_max(1))


def spread(
    model: LoadedModel,
    sites: Sequence[Site],
    pairs: Pairs,
    values: Tensor,
    moments: Mapping[str, Moment],
    settings: EditSettings,
    observer: Observer,
) -> tuple[dict[str, Tensor], tuple[SiteReport, ...]]:
    """Δ by site name and the reports: one site after the other, each with the ones before it
    edited.

    The residual is measured at the last site's block, for which the values were found. Each site
    takes an equal share of the residual that is left. What one site does not reach is left to the
    later ones.
    """
    concepts, movable = pairs.concepts, pairs.movable
    # m copies of a key are √m times the key and the value.
    root = concepts.counts[movable].double().sqrt()
    changed: dict[tuple[str, str], Tensor] = {}
    deltas: dict[str, Tensor] = {}
    reports = []
    observer.stage("closed form", len(sites))
    for number, site in enumerate(sites):
        with model.weights(changed):
            K1 = model.distinct_keys([site], concepts)[site.name][:, movable]  # (d, n)
            outputs = concepts.merge(block_outputs(model, sites[-1], concepts.ids))
            residual = (values - outputs)[:, movable]  # (m, n)
        moment = moments[site.name]
        C0 = moment.matrix / moment.tokens
        C0 = C0 + settings.ridge * C0.diagonal().mean() * torch.eye(len(C0), dtype=C0.dtype)
        left = len(sites) - number
        solved = spread_edit(K1 * root, residual * root, C0, settings.lam, left)
        delta, W = solved.delta, site.module.weight.detach().cpu().double()
        share = residual * root / left
        misfit = (delta @ (K1 * root) - share).norm() / share.norm().clamp_min(1e-300)
        reports.append(
            SiteReport(
                site.name,
                float(delta.norm() / W.norm()),
                rcond=solved.rcond,
                preserve_drift=drift(delta, W, moment),
                fit=float(misfit),
            )
        )
        deltas[site.name] = delta
        changed[site.component, site.parameter] = W + delta
        observer.advance()
    return deltas, tuple(reports)


def block_outputs(model: LoadedModel, site: Site, ids: Tensor) -> Tensor:
    """Output of the site's block at all positions: (n, length, m), float64, on the CPU."""
    block = getattr(model, site.component).get_submodule(site.name.removesuffix(".mlp.fc2"))
    caught: list[Tensor] = []

    def catch(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        caught.append(hidden.detach().cpu().double())

    handle = block.register_forward_hook(catch)
    try:
        with torch.no_grad():
            for part in ids.split(BATCH):
                model.encode(part)
    finally:
        handle.remove()
    return torch.cat(caught)
