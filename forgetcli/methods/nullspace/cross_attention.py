"""The half in the denoiser's cross-attention: keys and values forget the concept whichever text
encoder stands before them.

The requests c → c* are the *unedited* encoder's contexts of the concept and target prompts. The
contexts that must stay are the unedited encoder's of the preserve prompts and of the vocabulary's
words, and the edited encoder's of the concept prompts, which read as the targets already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from forgetcli.editing.adversarial_rounds import harden
from forgetcli.editing.alignment import Positions
from forgetcli.editing.check_limits import WRECKED_AT_IMAGES
from forgetcli.editing.context_columns import heldout_columns, pair_columns, prompt_columns
from forgetcli.editing.context_layers import cross_attention, edited
from forgetcli.editing.context_map import ContextProblem, mean_moment
from forgetcli.editing.edit import Edit, Keys
from forgetcli.editing.finetuning import edit_of
from forgetcli.editing.image_unlearning import unlearn
from forgetcli.editing.prior import prior_prompts
from forgetcli.editing.task import Task
from forgetcli.linalg import RidgeMap
from forgetcli.methods.nullspace import Parameters
from forgetcli.models.base import LoadedModel, Site
from forgetcli.models.tensors import read_tensor
from forgetcli.progress import Observer

# The last subject token and all after it: with the padding, that is all that the concept reaches.
POSITIONS: Positions = "from-last"


def edit(
    model: LoadedModel,
    task: Task,
    parameters: Parameters,
    encoder: Mapping[tuple[str, str], Tensor],
    observer: Observer,
) -> Edit:
    """New weights of all key and value layers.

    Args:
        encoder: new weights of the text encoders; empty if they are not edited.
    Raises:
        EditError: a prompt is too long, the denoiser has no cross-attention that could be edited, a
            linear system cannot be solved, or an inversion diverged.
    """
    group = cross_attention(model)
    sites, source = group.sites, group.source
    observer.stage(group.name, len(sites))
    pairs = pair_columns(source, task.pairs, POSITIONS)
    preserve = prompt_columns(source, task.preserve, "all", pairs)
    kept = preserve @ preserve.T / max(preserve.shape[1], 1)
    settings = parameters.context
    words = prior_prompts(model.tokenizer, task) if settings.prior else ()
    if words:
        kept = kept + settings.prior * mean_moment(source, words, POSITIONS, pairs)
    if encoder and settings.edited:
        with model.weights(encoder):
            concepts = [concept for concept, _ in task.pairs]
            kept = kept + settings.edited * mean_moment(source, concepts, "all")
    # All these layers have the same input, so the keys of an edit are recorded at the first only.
    for held in task.earlier(sites[:1], observer).values():
        kept = kept + held.matrix / held.tokens
    weights = {site.name: group.weight(site) for site in sites}
    problem = ContextProblem((pairs,), (1.0,), kept, settings.lam)

    def changed(solved: RidgeMap) -> dict[tuple[str, str], Tensor]:
        return {
            (site.component, site.parameter): W + W @ solved.matrix
            for site, W in zip(sites, weights.values())
        }

    problem, attacks = harden(model, problem, task, parameters.robust, changed, encoder, observer)
    solved = problem.solve()
    half = edited(
        group,
        {name: W @ solved.matrix for name, W in weights.items()},
        preserve,
        rcond=solved.rcond,
        pairs=pairs,
        heldout=heldout_columns(source, task.heldout, POSITIONS),
    )
    closed = Edit(
        half.weights,
        half.sites,
        keys=keys(sites[0], problem),
        attacks=tuple(attack.as_dict() for attack in attacks),
    )
    if not parameters.robust.finetune:
        return closed
    return finetuned(model, task, parameters, encoder, closed, observer)


def finetuned(
    model: LoadedModel,
    task: Task,
    parameters: Parameters,
    encoder: Mapping[tuple[str, str], Tensor],
    closed: Edit,
    observer: Observer,
) -> Edit:
    """The closed form's edit, with a fine-tuning of the whole denoiser on top."""
    start = {}
    for (component, name), weight in closed.weights.items():
        where = model.base.locate(component, name)[0]
        start[name] = (weight - read_tensor(model.base.folder, where).double()).float()
    changes, losses, recalls = unlearn(model, task, parameters.robust, encoder, start, observer)
    tuned = edit_of(model, {model.DENOISER: changes}, losses)
    reports = {site.name: site for site in closed.sites}
    return replace(
        closed,
        weights=tuned.weights,
        sites=tuple(
            replace(reports.get(site.name, site), delta_rel=site.delta_rel) for site in tuned.sites
        ),
        losses=tuned.losses,
        attacks=(*closed.attacks, *(recall.as_dict() for recall in recalls)),
        drift_limit=WRECKED_AT_IMAGES,
    )


def keys(site: Site, problem: ContextProblem) -> dict[tuple[str, str], Keys]:
    """The contexts that a later edit must leave as this one maps them, at the first site."""
    columns = torch.cat([part.concepts for part in problem.requests], 1)
    return {
        (site.component, site.parameter): Keys(
            columns, torch.ones(columns.shape[1], dtype=torch.int64)
        )
    }
