"""Null-space edit of the text encoder's MLP outputs, with targets refined for the denoiser.

Per site Δ = R A with A = (K₁ᵀ P K₁ + λI)⁻¹ K₁ᵀ P (AlphaEdit, arXiv 2410.02355); of a model that was
edited before, the keys
of the earlier edits are held too. The residual R says what the concept's tokens should put out
instead; it is not copied
from anywhere but found by descent, so that the denoiser reads of the concept prompt what it read of
the target prompt.

The default differs from the published form (``preset = "reference"``) in more than one thing
(docs/methods.md has what was measured):
``mode = "joint"`` descends on the change *through* the closed form, at all sites together, by
L-BFGS over all prompts at once, with what
the change costs (``damping``) as part of what is minimised, so that what is optimised is exactly
what the weights will do under the
projector (published: V₁ is refined as if it could be put in place freely, one site after the other,
and the constraint is met
afterwards); ``match = "attention"`` compares what the denoiser's cross-attention reads of the
contexts instead of running the
denoiser; and ``prior`` adds the tokenizer's own words as a ridge, for all that the preserve prompts
do not name.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.pipeline.estimates import Work
    from forgetcli.progress import Observer

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

REFERENCE = {
    "edit": {
        "sites": (1, 2, 3),
        "lam": 200.0,
        "scale": "sum",
        "threshold": 1 / 90000,
        "min_rank": 100,
        "positions": "all",
        "balance_empty": False,
        "prior": 0.0,
    },
    "refine": {
        "mode": "sequential",
        "match": "denoiser",
        "steps": 6,
        "epochs": 10,
        "lr": 0.2,
        "batch": 8,
        "timesteps": (10, 50),
        "latent_steps": 10,
        "guidance": 7.5,
    },
}


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "reference"] = Field(
        "default", description="'reference': the published form and its values"
    )
    sites: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (1, 2, 3), min_length=1, description="text encoder blocks whose mlp.fc2 is edited"
    )
    encoders: Annotated[tuple[Literal["clip", "t5"], ...], Field(min_length=1)] = Field(
        ("clip",),
        description="which of the model's text encoders: the blocks are the same in all of these kinds",
    )
    lam: Positive = Field(
        1.0,
        description="λ: larger is gentler (sequential, copy); joint: what a change costs in all directions alike, beside prior",
    )
    prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0,
        description="ridge on the tokenizer's own words: what moving one of them costs; 0: none",
    )
    scale: Literal["mean", "sum"] = Field(
        "mean", description="λ relative to the mean over concept tokens, or to their sum"
    )
    threshold: Positive = Field(
        3 / 1000, description="null space: eigenvalues below threshold × mean eigenvalue"
    )
    min_rank: Count = Field(100, description="never fewer null directions than this")
    positions: Literal["all", "from-concept"] = Field(
        "from-concept", description="token positions that may change"
    )
    balance_empty: bool = Field(
        True, description="count the empty prompt as often as all other preserve prompts together"
    )
    hold_earlier: bool = Field(
        True,
        description="of a model that was edited before: hold what the edits in its ledger put in place",
    )


class RefineSettings(BaseModel):
    """The descent that finds what the concept should turn into."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["joint", "sequential", "copy"] = Field(
        "joint", description="how V₁ is found; 'copy' takes the target's values"
    )
    match: Literal["attention", "denoiser"] = Field(
        "attention", description="what must agree: what cross-attention reads, or predictions"
    )
    steps: Count = Field(
        16,
        description="evaluations of the loss (joint; the line search may add one), or descent steps a visit (sequential)",
    )
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="joint: what a change costs, relative to what the weight does, against what mismatch is left, relative to the unedited model's",
    )
    epochs: Count = Field(1, description="sequential: rounds over the sites")
    lr: Positive = Field(0.2, description="sequential: Adam's rate")
    batch: Count = Field(
        16,
        description="pictures a step (sequential); prompts or pictures at a time (joint): more take more memory",
    )
    pictures: Count = Field(
        64,
        description="joint, denoiser: at least so many noisy pictures are compared, as many of every prompt",
    )
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (0, 1000), description="range, out of the model's 1000"
    )
    latent_steps: Count = Field(10, description="sampler steps when the noisy pictures are made")
    guidance: Annotated[float, Field(ge=1)] = Field(
        3.0, description="guidance when the noisy pictures are made"
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

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tables):
        if (
            isinstance(tables, dict)
            and isinstance(tables.get("edit"), dict)
            and tables["edit"].get("preset") == "reference"
        ):
            return {
                **tables,
                **{
                    name: {**values, **tables.get(name, {})}
                    for name, values in REFERENCE.items()
                    if isinstance(tables.get(name, {}), dict)
                },
            }
        return tables


SEARCH = {
    "edit.lam": Range(1e-2, 30.0, log=True),
    "edit.prior": Range(0.1, 100.0, log=True),
    "edit.threshold": Range(1e-5, 3e-2, log=True),
    "edit.sites": Choice(((1, 2, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2), (3,))),
    "refine.steps": Range(8, 40),
    "refine.damping": Range(0.1, 10.0, log=True),
}


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for the recipe's concepts, all solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, or the linear algebra cannot be
            done.
    """
    from forgetcli.editing import refine
    from forgetcli.editing.closed_form import keys_after, measure, prepare, stored_weight
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.moments import materials, preserve_moments
    from forgetcli.models import vocabulary
    from forgetcli.models.tokens import tokenise

    sites = model.pick_sites(parameters.edit.sites, parameters.edit.encoders)
    pairs = refine.Pairs.of(model.tokenizer, task.pairs, parameters.edit.positions)
    moments = preserve_moments(
        model,
        sites,
        task.preserve,
        task.moments,
        observer,
        balance_empty=parameters.edit.balance_empty,
    )
    held = task.earlier(sites, observer) if parameters.edit.hold_earlier else {}
    words = (
        preserve_moments(
            model,
            sites,
            vocabulary.words(model.tokenizer),
            task.moments,
            observer,
            name="vocabulary",
            what="the vocabulary's words",
        )
        if parameters.edit.prior
        else None
    )
    problems = prepare(
        model, sites, pairs, moments, parameters.edit, observer, held, words and words.by_site
    )
    solutions, losses = refine.run(model, problems, pairs, parameters, task.seed, observer)
    heldout = tokenise(model.tokenizer, task.heldout) if task.heldout else None
    reports = measure(model, problems, solutions, heldout)
    # Onto the file's own weights: the ones in memory are rounded to the dtype that the model runs
    # in.
    weights = {
        (p.site.component, p.site.parameter): stored_weight(model.base, p.site)
        + solutions[p.site.name].delta
        for p in problems
    }
    used = [moments, words] if words else [moments]
    return Edit(
        weights,
        reports,
        tuple(losses),
        (*moments.materials, *materials("kp", held)),
        {"hits": sum(m.hits for m in used), "misses": sum(m.misses for m in used)},
        keys_after(model, sites, pairs.concepts, weights),
    )


def work(task: Task, parameters: Parameters) -> Work:
    """What the edit asks of the model, for estimates."""
    from forgetcli.models.vocabulary import COUNT
    from forgetcli.pipeline.estimates import Work

    pairs, refine = len(task.pairs), parameters.refine
    moments = len(task.preserve) + (COUNT if parameters.edit.prior else 0)
    if refine.mode == "copy":
        return Work(encoded=moments + 2 * pairs, moments=moments)
    joint = refine.mode == "joint"
    steps = refine.steps if joint else refine.steps * refine.epochs * len(parameters.edit.sites)
    compared = (
        pairs * (1 if refine.match == "attention" else ceil(refine.pictures / pairs))
        if joint
        else refine.batch
    )  # a step
    prompts = ceil(compared / refine.batch) * min(refine.batch, pairs)
    encoded = (
        moments + 4 * pairs + 3 * steps * prompts
    )  # a gradient costs twice what the encoding does
    if refine.match == "attention":
        return Work(encoded=encoded, moments=moments)
    pictures = 2 * pairs * refine.latent_steps * 2  # concepts and targets; guidance asks twice
    return Work(
        encoded=encoded,
        predictions=pictures + (compared if joint else steps * compared),
        descents=steps * compared,
        batch=min(refine.batch, compared),
        moments=moments,
    )
