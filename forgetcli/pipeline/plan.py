"""`plan`: what `apply` would do and need, without loading weights or writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import are_cached, parts
from forgetcli.editing.prior import prior_prompts
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline import estimates, inspect
from forgetcli.pipeline.job import Job, ModelId, prepare
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Stopwatch

if TYPE_CHECKING:
    from forgetcli.editing.task import Task
    from forgetcli.models.base import LoadedModel
    from forgetcli.pipeline.inspect import EditableSite, Inspection
    from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class PlannedSite:
    """A text encoder layer that would be edited.

    Attributes:
        name, shape, dtype: see `inspect.EditableSite`.
        cached: all its second moments are in the cache.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    cached: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Plan:
    """What `apply` would do: ``apply --dry-run``.

    Attributes:
        base: id, revision and digest of the base model.
        recipe_sha256, method, parameters: the recipe's digest, its method, the method's parameters.
        pairs: (concept prompt, target prompt).
        preserve: number of preserve prompts.
        sites: the text encoder layers that would be edited.
        cache: hits and misses of second moments.
        estimates: see `forgetcli.pipeline.estimates.estimate`.
        seconds: by stage.
    """

    base: ModelId
    recipe_sha256: str
    method: str
    parameters: Mapping[str, object]
    pairs: tuple[tuple[str, str], ...]
    preserve: int
    sites: tuple[PlannedSite, ...]
    cache: Mapping[str, int]
    estimates: estimates.Needs
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "pairs": [list(pair) for pair in self.pairs],
            "sites": [site.as_dict() for site in self.sites],
        }


def plan(
    recipe: Recipe | str | Path,
    *,
    model: str | None = None,
    config: Path | str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Plan:
    """Check recipe and model, and report what `apply` would do and need.

    Loads no weights and writes nothing.

    Args: see `pipeline.apply.apply`.
    Raises:
        ForgetError: recipe or model cannot be used, a prompt is too long for it, or it has no such
            site.
    """
    watch = Stopwatch()
    job = prepare(recipe, model, config)
    with watch.stage("hash"):
        _ = job.base.digest
    loaded = models.load(job.base, device=device, dtype=dtype)
    found = inspect.inspect(job.base)
    pairs = job.recipe.edit_pairs()
    tokenise(loaded.tokenizer, [prompt for pair in pairs for prompt in pair], strict=True)
    sites = _sites(job, found)
    cache = MomentCache()
    task = task_of(job.recipe, job.base, cache, tokenizer=loaded.tokenizer)
    cached = {site.name: _cached_moments(job, loaded, task, site) for site in sites}
    hits = sum(map(sum, cached.values()))
    total = sum(map(len, cached.values()))
    with watch.stage("estimate"):
        request = estimates.Task(
            cost=job.cost(task),
            concepts=tokenise(loaded.tokenizer, [concept for concept, _ in pairs]),
            together=min(_setting(job, "refine", "batch", 0), len(pairs)),
            sites=sites,
            cached=hits,
            of=total,
            hashing=watch.report()["hash"],
        )
        needs = estimates.estimate(loaded, found, request)
    return Plan(
        base=ModelId.of(job.base),
        recipe_sha256=job.recipe.sha256,
        method=job.recipe.method,
        parameters=job.parameters.model_dump(mode="json"),
        pairs=tuple(pairs),
        preserve=len(task.preserve),
        sites=tuple(
            PlannedSite(site.name, site.shape, site.dtype, all(cached[site.name])) for site in sites
        ),
        cache={"hits": hits, "misses": total - hits},
        estimates=needs,
        seconds=watch.report(),
    )


def _setting(job: Job, table: str, key: str, default: Any) -> Any:
    """A parameter of the method, or `default` for a method that has no such parameter."""
    return getattr(getattr(job.parameters, table, None), key, default)


def _sites(job: Job, found: Inspection) -> Sequence[EditableSite]:
    """The text encoder layers that the method would edit; none for methods that edit others."""
    blocks = _setting(job, "edit", "sites", None)
    if not blocks or _setting(job, "edit", "balance_empty", None) is None:
        return []
    if _setting(job, "edit", "layers", "text-encoder") == "cross-attention":
        return []
    return found.text_sites(blocks, _setting(job, "edit", "encoders", ("clip",)))


def _cached_moments(job: Job, loaded: LoadedModel, task: Task, site: EditableSite) -> list[bool]:
    """For each second moment that a site needs, whether it is in the cache."""
    balance = _setting(job, "edit", "balance_empty", False)
    if _setting(job, "edit", "prior", 0):
        prior = prior_prompts(loaded.tokenizer, task)
        sets = parts(task.own, (), balance)
        sets += [(part, 1) for part in (prior, *task.shared) if part]
    else:
        sets = parts(task.preserve, task.shared, balance)
    return [are_cached(loaded, site, prompts, task.moments, often) for prompts, often in sets]
