"""Null-space edit of the text encoder's MLP outputs, with targets refined through the denoiser.

Per site Δ = R A with A = (K₁ᵀ P K₁ + λI)⁻¹ K₁ᵀ P (AlphaEdit, arXiv 2410.02355). The residual R says what the concept's
tokens should put out instead; it is not copied from anywhere but found by descent, so that the denoiser predicts for the
concept prompt what it predicted for the target prompt.

``mode = "joint"`` (default) descends on R *through* the closed form, at all sites together: what is optimised is exactly
what the weights will do under the projector. ``preset = "reference"`` is the published form: V₁ is refined as if it could
be put in place freely, one site after the other, and the constraint is met afterwards.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgetcli.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.cache import MomentCache
    from forgetcli.edits import Edit
    from forgetcli.estimates import Work
    from forgetcli.progress import Observer
    from forgetcli.recipe import Recipe

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

REFERENCE = {
    "edit": {"sites": (1, 2, 3), "lam": 200.0, "scale": "sum", "threshold": 1 / 90000, "min_rank": 100, "positions": "all", "balance_empty": False},
    "refine": {"mode": "sequential", "steps": 6, "epochs": 10, "lr": 0.2, "batch": 8, "timesteps": (10, 50),
               "latent_steps": 10, "guidance": 7.5},
}


class EditSettings(BaseModel):
    """The closed form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Literal["default", "reference"] = Field("default", description="'reference': the published form and its values")
    sites: tuple[Annotated[int, Field(ge=0)], ...] = Field((1, 2, 3), min_length=1, description="text encoder blocks whose mlp.fc2 is edited")
    lam: Positive = Field(0.01, description="λ: larger is gentler")
    scale: Literal["mean", "sum"] = Field("mean", description="λ relative to the mean over concept tokens, or to their sum")
    threshold: Positive = Field(1 / 1000, description="null space: eigenvalues below threshold × mean eigenvalue")
    min_rank: Count = Field(100, description="never fewer null directions than this")
    positions: Literal["all", "from-concept"] = Field("from-concept", description="token positions that may change")
    balance_empty: bool = Field(True, description="count the empty prompt as often as all other preserve prompts together")


class RefineSettings(BaseModel):
    """The descent that finds what the concept should turn into."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["joint", "sequential", "copy"] = Field("joint", description="how V₁ is found; 'copy' takes the target's values")
    steps: Count = Field(60, description="descent steps (joint), or steps a visit (sequential)")
    epochs: Count = Field(1, description="sequential: rounds over the sites")
    lr: Positive = Field(0.1, description="Adam's rate; joint: relative to the values' size")
    batch: Count = Field(16, description="pictures a step")
    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field((0, 1000), description="range, out of the model's 1000")
    latent_steps: Count = Field(10, description="sampler steps when the noisy pictures are made")
    guidance: Annotated[float, Field(ge=1)] = Field(3.0, description="guidance when the noisy pictures are made")

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
        if isinstance(tables, dict) and isinstance(tables.get("edit"), dict) and tables["edit"].get("preset") == "reference":
            return {**tables, **{name: {**values, **tables.get(name, {})} for name, values in REFERENCE.items()
                                 if isinstance(tables.get(name, {}), dict)}}
        return tables


SEARCH = {
    "edit.lam": Range(1e-4, 1.0, log=True),
    "edit.threshold": Range(1e-5, 3e-2, log=True),
    "edit.sites": Choice(((1, 2, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2), (3,))),
    "refine.steps": Range(20, 120),
    "refine.lr": Range(0.02, 0.4, log=True),
}


def edit(model, recipe: Recipe, parameters: Parameters, cache: MomentCache, observer: Observer) -> Edit:
    """New weights for the recipe's concepts, all solved together.

    Raises:
        EditError: a prompt is too long, a site does not exist, or the linear algebra cannot be done.
    """
    from forgetcli import refine
    from forgetcli.closed_form import measure, prepare, stored_weight
    from forgetcli.edits import Edit
    from forgetcli.moments import preserve_moments
    from forgetcli.prompts import tokenise

    sites = model.pick_sites(parameters.edit.sites)
    pairs = refine.Pairs.of(model.tokenizer, recipe.edit_pairs(), parameters.edit.positions)
    moments = preserve_moments(model, sites, recipe.preserve_prompts(), cache, observer,
                               balance_empty=parameters.edit.balance_empty)
    problems = prepare(model, sites, pairs, moments, parameters.edit, observer)
    solutions, losses = refine.run(model, problems, pairs, parameters, recipe.seed, observer)
    kept = [p for r in recipe.retain for p in (*r.direct, *r.indirect)]
    heldout = tokenise(model.tokenizer, kept) if kept else None
    reports = measure(model, problems, solutions, heldout)
    # Onto the file's own weights: the ones in memory are rounded to the dtype that the model runs in.
    weights = {(p.site.component, p.site.parameter): stored_weight(model.base, p.site) + solutions[p.site.name].delta for p in problems}
    return Edit(weights, reports, tuple(losses), moments.materials, {"hits": moments.hits, "misses": moments.misses})


def work(recipe: Recipe, parameters: Parameters) -> Work:
    """What the edit asks of the model, for estimates."""
    from forgetcli.estimates import Work

    pairs, preserve, refine = len(recipe.edit_pairs()), len(recipe.preserve_prompts()), parameters.refine
    if refine.mode == "copy":
        return Work(encoded=preserve + 2 * pairs, moments=preserve)
    steps = refine.steps * (1 if refine.mode == "joint" else refine.epochs * len(parameters.edit.sites))
    pictures = 2 * pairs * refine.latent_steps * 2                    # concepts and targets; guidance asks twice
    return Work(encoded=preserve + 4 * pairs + steps * min(refine.batch, pairs), predictions=pictures + steps * refine.batch,
                descents=steps * refine.batch, batch=refine.batch, moments=preserve)
