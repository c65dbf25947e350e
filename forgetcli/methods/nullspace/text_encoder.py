"""The half in the text encoder: second moments, null space, refinement, closed form."""

from __future__ import annotations

from forgetcli.editing import refine
from forgetcli.editing.closed_form import keys_after, measure, prepare, stored_weight
from forgetcli.editing.edit import Edit
from forgetcli.editing.moments import Moments, counted, materials, preserve_moments, prior_moments
from forgetcli.editing.pairs import Pairs
from forgetcli.editing.task import Task
from forgetcli.methods.nullspace import Parameters
from forgetcli.models.base import LoadedModel, Site
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the task, solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, or a linear system cannot be solved.
    """
    settings = parameters.edit
    sites = model.pick_sites(settings.sites, settings.encoders)
    pairs = Pairs.of(model.tokenizer, task.pairs, settings.positions)
    # Shared parts have words near the concept too: they are part of the ridge, not of the
    # constraint, as the prior is. Without a ridge they are in the constraint.
    soft = settings.prior > 0
    moments = preserve_moments(
        model,
        sites,
        task.own if soft else task.preserve,
        task.moments,
        observer,
        balance_empty=settings.balance_empty,
        shared=() if soft else task.shared,
    )
    held = task.earlier(sites, observer) if settings.hold_earlier else {}
    words = ridge_moments(model, sites, task, observer) if soft else None
    problems = prepare(
        model,
        sites,
        pairs,
        moments,
        settings,
        task.moments,
        observer,
        held=held,
        vocabulary=words.by_site if words else None,
        priced=parameters.refine.price,
    )
    solutions, losses = refine.run(model, problems, pairs, parameters, task.seed, observer)
    heldout = tokenise(model.tokenizer, task.heldout) if task.heldout else None
    reports = measure(model, problems, solutions, heldout)
    weights = {
        (p.site.component, p.site.parameter): stored_weight(model.base, p.site)
        + solutions[p.site.name].delta
        for p in problems
    }
    used = [moments, words] if words else [moments]
    return Edit(
        weights=weights,
        sites=reports,
        losses=tuple(losses),
        moments=(*moments.materials, *materials("kp", held)),
        cache=counted(used),
        keys=keys_after(model, sites, pairs.concepts, weights),
    )


def ridge_moments(
    model: LoadedModel, sites: list[Site], task: Task, observer: Observer
) -> Moments | None:
    """Second moments of the task's prior and of its shared parts; None if it has neither."""
    prior = prior_moments(model, sites, task, observer)
    if not task.shared:
        return prior
    shared = preserve_moments(
        model,
        sites,
        [prompt for part in task.shared for prompt in part],
        task.moments,
        observer,
        shared=task.shared,
        name="sets",
        what="prompts of preserve sets",
    )
    return shared if prior is None else prior + shared
