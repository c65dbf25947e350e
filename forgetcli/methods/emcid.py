"""EMCID: a mass edit of the text encoder's MLP outputs, spread over several blocks.

First, for each concept prompt, the output of the last edited block at the subject's last token is
moved until the denoiser predicts
what it predicts for the target prompt and the encoder's summary of the prompt is the target's (dual
self-distillation). Then one block
after the other is solved for in closed form, Δ = R K₁ᵀ (λC₀ + K₁K₁ᵀ)⁻¹, each for its share of what
that output still lacks.
Xiong et al., Editing Massive Concepts in Text-to-Image Diffusion Models (arXiv 2403.13807), after
MEMIT (arXiv 2210.07229).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.progress import Observer

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

BLOCKS = 4  # edited ones, if the recipe does not say which


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sites: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="text encoder blocks whose mlp.fc2 is edited; none given: the four before the last, as published (7 to 10 of 12)",
    )
    lam: Positive = Field(
        100.0,
        description="λ: weight of the preserve prompts' mean second moment; published, with 100,000 captions: 4000 to 10000",
    )
    ridge: Weight = Field(
        0.01,
        description="added to that moment's diagonal, relative to its mean; published: 0, which few prompts do not allow",
    )
    positions: Literal["last", "from-last"] = Field(
        # Measured on the embedded model: prompts' padding is much alike, and editing it moved the
        # predictions for preserve prompts by
        # 4.6 % (without it 0.5 %; at λ = 10 by 17.8 %), for no more forgetting.
        "last",
        description="tokens that are edited: the last of the subject, as published, or also all after it, padding included",
    )
    balance_empty: bool = Field(
        True, description="count the empty prompt as often as all other preserve prompts together"
    )


class RefineSettings(BaseModel):
    """The descent that finds the values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: Count = Field(
        60, description="descent steps; published: 100 to 200 for each concept by itself"
    )
    lr: Positive = Field(
        0.2, description="Adam's rate, relative to the outputs' size; published: 0.2, absolute"
    )
    batch: Count = Field(16, description="pictures a step")
    align: Weight = Field(
        0.01,
        description="weight of the text alignment: the summary token's distance to the target's; published: 0.01",
    )
    decay: Weight = Field(
        5e-4, description="weight of the change's size relative to the output's; published: 5e-4"
    )
    clamp: Positive = Field(
        1.5, description="largest change, relative to the output's norm; published: 1.5"
    )
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (0, 1000), description="range, out of the model's 1000"
    )
    latent_steps: Count = Field(10, description="sampler steps when the noisy pictures are made")
    guidance: Annotated[float, Field(ge=1)] = Field(
        3.0, description="guidance when the noisy pictures are made; published: 7.5"
    )

    @model_validator(mode="after")
    def _range(self):
        if self.timesteps[0] >= self.timesteps[1]:
            raise ValueError("timesteps must be [lower, upper] with lower < upper")
        return self


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    refine: RefineSettings = RefineSettings()


SEARCH = {
    "edit.lam": Range(1.0, 1e4, log=True),
    "edit.positions": Choice(("last", "from-last")),
    "refine.steps": Range(20, 120),
    "refine.lr": Range(0.05, 0.5, log=True),
}


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the recipe, solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, the descent diverged, or the linear
            algebra cannot be done.
    """
    from forgetcli.editing.closed_form import keys_after, stored_weight
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.moments import preserve_moments
    from forgetcli.errors import EditError

    if len(model.encoders) > 1:
        raise EditError(
            "edit.several-encoders",
            f"emcid edits a model's only text encoder, and {model.base.id} has {len(model.encoders)}",
            "use method nullspace, which edits several together",
        )
    sites = model.pick_sites(parameters.edit.sites or sorted(model.sites)[:-1][-BLOCKS:])
    pairs = subject_pairs(model.tokenizer, task.pairs, parameters.edit.positions)
    moments = preserve_moments(
        model,
        sites,
        task.preserve,
        task.moments,
        observer,
        balance_empty=parameters.edit.balance_empty,
    )
    values, losses = find_values(model, sites[-1], pairs, parameters.refine, task.seed, observer)
    deltas, reports = spread(
        model, sites, pairs, values, moments.by_site, parameters.edit, observer
    )
    weights = {
        (site.component, site.parameter): stored_weight(model.base, site) + deltas[site.name]
        for site in sites
    }
    return Edit(
        weights,
        reports,
        tuple(losses),
        moments.materials,
        {"hits": moments.hits, "misses": moments.misses},
        keys_after(model, sites, pairs.concepts, weights),
    )


def subject_pairs(tokenizer, prompts: Sequence[tuple[str, str]], positions: str):
    """The edit pairs with only the subject's last token (and what follows it) movable."""
    from dataclasses import replace

    import torch

    from forgetcli.editing.cross_attention import subject_ends, words
    from forgetcli.editing.refine import Pairs

    pairs = Pairs.of(tokenizer, prompts, "all")
    movable, owner = torch.zeros_like(pairs.movable), pairs.concepts.owner
    for row, (concept, target) in enumerate(
        zip(pairs.concepts.ids.tolist(), pairs.targets.ids.tolist())
    ):
        end, _ = subject_ends(words(tokenizer, concept), words(tokenizer, target))
        movable[owner[row, end : end + 1 if positions == "last" else len(concept)]] = True
    return replace(pairs, movable=movable)


def find_values(
    model, site, pairs, settings, seed: int, observer: Observer
) -> tuple[Tensor, list[float]]:
    """v*: what the site's block should put out at each distinct token, float64, shape (m,
    distinct), and the loss by step.

    What is not movable keeps its value. The change is made to the MLP's output, which the block
    adds to what it passes on.
    """
    import torch

    from forgetcli.editing.refine import Matcher, descend_once, shifted

    start = pairs.concepts.merge(block_outputs(model, site, pairs.concepts.ids))  # (m, distinct)
    movable = pairs.movable
    norms = start[:, movable].norm(dim=0).float().to(model.device)  # (moved,)
    size = start[:, movable].pow(2).mean().sqrt()
    moved = torch.zeros((len(start), int(movable.sum())), device=model.device, requires_grad=True)
    matcher = Matcher.of(model, pairs, settings, seed, observer)
    objective = Objective(model, matcher, moved, norms / float(size), settings)
    optimiser = torch.optim.Adam([moved], lr=settings.lr)
    losses = []
    observer.stage("refinement", settings.steps)
    for _ in range(settings.steps):
        shift = torch.zeros(start.shape, device=model.device).index_copy(
            1, movable.nonzero().flatten().to(model.device), moved * size
        )
        with shifted(site.module, matcher, shift):
            losses.append(descend_once(objective, optimiser))
        with torch.no_grad():
            objective.clamp()
        observer.advance(loss=losses[-1])
    values = start.clone()
    values[:, movable] += moved.detach().cpu().double() * size
    return values, losses


class Objective:
    """The descent's loss: the denoiser's predictions, the encoder's summaries, and the size of the
    change.

    Attributes:
        moved: the change at the movable tokens in units of the outputs' size, shape (m, moved).
        norms: norms of the unedited outputs there, in the same units, shape (moved,).
    """

    def __init__(self, model, matcher, moved: Tensor, norms: Tensor, settings) -> None:
        concepts, targets = matcher.pairs.concepts.ids, matcher.pairs.targets.ids
        end = model.tokenizer.eos_token_id
        self.model, self.matcher, self.moved, self.norms, self.settings = (
            model,
            matcher,
            moved,
            norms,
            settings,
        )
        self.ends = (concepts == end).int().argmax(1)  # the first end-of-text token: CLIP's summary
        self.summaries = matcher.target_context.hidden[
            range(len(targets)), (targets == end).int().argmax(1)
        ]  # (n, d)

    def loss(self) -> Tensor:
        from torch.nn.functional import mse_loss

        loss, rows = self.matcher.loss(), self.matcher.rows
        if self.settings.align:
            found = self.model.encode(self.matcher.pairs.concepts.ids[rows]).hidden[
                range(len(rows)), self.ends[rows]
            ]
            loss = loss + self.settings.align * mse_loss(
                found.float(), self.summaries[rows].float()
            )
        # The eps: a norm has no gradient at zero, where the descent begins.
        sizes = (self.moved.pow(2).sum(0) + 1e-12).sqrt()
        return loss + self.settings.decay * (sizes / self.norms).mean()

    def clamp(self) -> None:
        """Back into the ball around the unedited outputs."""
        largest = self.settings.clamp * self.norms
        self.moved.mul_((largest / self.moved.norm(dim=0).clamp_min(1e-12)).clamp_max(1))


def spread(model, sites, pairs, values: Tensor, moments: dict, settings, observer: Observer):
    """Δ by site name and the reports: one site after the other, each with the ones before it
    edited.

    The residual is measured at the last site's block, where the values were found, and each site
    takes an equal share of what is
    left of it: what one does not achieve, the later ones make up for.
    """
    import torch

    from forgetcli.editing.edit import SiteReport
    from forgetcli.linalg import spread_edit

    concepts, movable = pairs.concepts, pairs.movable
    root = (
        concepts.counts[movable].double().sqrt()
    )  # m copies of a key are √m times the key and the value
    changed, deltas, reports = {}, {}, []
    observer.stage("closed form", len(sites))
    for number, site in enumerate(sites):
        with model.weights(changed):
            K1 = concepts.merge(model.keys([site], concepts.ids)[site.name])[:, movable]  # (d, n)
            lacking = (values - concepts.merge(block_outputs(model, sites[-1], concepts.ids)))[
                :, movable
            ]  # (m, n)
        moment = moments[site.name]
        C0 = moment.matrix / moment.tokens
        C0 = C0 + settings.ridge * C0.diagonal().mean() * torch.eye(len(C0), dtype=C0.dtype)
        left = len(sites) - number
        solved = spread_edit(K1 * root, lacking * root, C0, settings.lam, left)
        delta, W, share = (
            solved.delta,
            site.module.weight.detach().cpu().double(),
            lacking * root / left,
        )
        drift = (
            ((delta @ moment.matrix) * delta).sum().clamp_min(0) / ((W @ moment.matrix) * W).sum()
        ).sqrt()
        reports.append(
            SiteReport(
                site.name,
                float(delta.norm() / W.norm()),
                rcond=solved.rcond,
                preserve_drift=float(drift),
                fit=float((delta @ (K1 * root) - share).norm() / share.norm().clamp_min(1e-300)),
            )
        )
        deltas[site.name], changed[site.component, site.parameter] = delta, W + delta
        observer.advance()
    return deltas, tuple(reports)


def block_outputs(model, site, ids: Tensor) -> Tensor:
    """What the block of a site passes on, for all positions: (n, length, m), float64, on the CPU."""
    import torch

    block = getattr(model, site.component).get_submodule(site.name.removesuffix(".mlp.fc2"))
    caught = []
    handle = block.register_forward_hook(
        lambda _, args, output: caught.append(
            (output[0] if isinstance(output, tuple) else output).detach().cpu().double()
        )
    )
    try:
        with torch.no_grad():
            for part in ids.split(64):
                model.encode(part)
    finally:
        handle.remove()
    return torch.cat(caught)
