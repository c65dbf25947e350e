"""`apply`: the whole job on one page.

recipe → base model → second moments → null space → refinement → closed form → check → patched
checkpoint + provenance
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import __version__, methods, models
from forgetcli import recipe as recipes
from forgetcli.pipeline import memory
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage.files import refuse_overlap

if TYPE_CHECKING:
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.recipe import Recipe
    from forgetcli.storage.copying import Copying


@dataclass(frozen=True)
class ApplyResult:
    """What `apply` did; `as_dict` has the stable keys of ``apply --json``.

    Attributes:
        peak_rss, peak_gpu: bytes that the process has needed at most so far, in memory and on a
            CUDA device; None if unknown.
    """

    output: Path
    base: Mapping[str, str | None]
    recipe_sha256: str
    method: str
    sites: tuple[dict, ...]
    check: Mapping[str, float]
    cache: Mapping[str, int]
    seconds: Mapping[str, float]
    peak_rss: int | None = None
    peak_gpu: int | None = None

    def as_dict(self) -> dict:
        return {**asdict(self), "output": str(self.output), "sites": list(self.sites)}


def apply(
    recipe: Recipe | str | Path,
    *,
    model: str | None = None,
    output: Path | str = "edited",
    device: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    strict: bool = True,
    config: Path | str | None = None,
    copying: Copying | str = "reflink",
    observer: Observer | None = None,
    cache: MomentCache | None = None,
) -> ApplyResult:
    """Edit a model as the recipe says, and publish the edited checkpoint at `output` in one rename.

    Args:
        recipe: a loaded recipe, a path, or the name of a bundled one.
        model: base model (`demo`, a diffusers folder, a single file, a hub id); default: the
            recipe's.
        output: folder to write; it is absent, old or complete at any moment.
        device, dtype: where and in what the model runs; default: detected, float32. The algebra is
            float64 always.
        force: replace an earlier output.
        strict: an edit that the check finds without effect, or too much of one, is an error; else
            it is only reported.
        config: for a single file: the diffusers folder with its configs and tokenizer; see
            `checkpoint.resolve`.
        copying: how untouched files get into the output: `reflink` where the file system can,
            `copy`, or hard `link`.
        cache: of second moments; default: the user's.
    Raises:
        ForgetError: recipe, model, edit or output; nothing is left behind.
    """
    from forgetcli.artifact import card, ledger, patch, provenance
    from forgetcli.checkpoint import base as checkpoint
    from forgetcli.editing.check import check
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.storage import atomic
    from forgetcli.storage.copying import Copying

    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    started = datetime.now(UTC)
    recipe = recipe if isinstance(recipe, recipes.Recipe) else recipes.load(recipe)
    method = methods.get(recipe.method)
    base = checkpoint.resolve(model or recipe.model, config=config)
    recipe = recipe.on(models.family_of(base.settings))
    parameters = method.Parameters.model_validate(recipe.parameters)
    refuse_overlap(output, base.place, kind="the base model")
    copying = Copying(copying)
    with atomic.publishing(output, force=force) as staging:
        patch.check_room(base, staging, output, copying)
        with watch.stage("load"):
            loaded = models.load(base, device=device, dtype=dtype)
        with watch.stage("edit"):
            edit = method.edit(loaded, recipe, parameters, cache or MomentCache(), observer)
        with watch.stage("check"):
            checked = check(
                loaded, edit, recipe.edit_pairs(), recipe.preserve_prompts(), recipe.seed, observer
            )
            if strict and edit.weights:  # the control is to have no effect
                checked.enforce()
        with watch.stage("write"):
            observer.stage("writing")
            edits = ledger.extended(base, edit, recipe, parameters.model_dump(mode="json"))
            stored = patch.patch(base, staging, edit.weights, copying, edits and edits.values)
            sites = tuple(
                asdict(s) | {"stored_error": stored_error(stored, s.name)} for s in edit.sites
            )
            report = {
                "schema_version": 1,
                "sites": list(sites),
                "check": checked.as_dict(),
                "losses": list(edit.losses),
            }
            finished = datetime.now(UTC).isoformat()
            if edits:
                edits.write(staging)
            card.write(
                staging, base=base, recipe=recipe, edits=edits, sites=sites, check=checked.as_dict()
            )
            provenance.write(
                staging,
                base=base,
                recipe_bytes=recipe.raw,
                method=recipe.method,
                parameters=parameters.model_dump(mode="json"),
                stored=stored,
                materials=list(edit.moments),
                report=report,
                run_details={
                    "startedOn": started.isoformat(),
                    "finishedOn": finished,
                    "edits": ledger.dates(base.folder, edits, finished),
                    "device": str(loaded.device),
                    "dtype": str(loaded.dtype),
                    "cache": dict(edit.cache),
                    "versions": versions(),
                },
            )
    observer.done()
    return ApplyResult(
        output=output,
        base={"id": base.id, "revision": base.revision, "digest": base.digest},
        recipe_sha256=recipe.sha256,
        method=recipe.method,
        sites=sites,
        check=checked.as_dict(),
        cache=dict(edit.cache),
        seconds=watch.report(),
        peak_rss=memory.peak_rss(),
        peak_gpu=memory.peak_gpu(),
    )


@dataclass(frozen=True)
class Plan:
    """What `apply` would do: ``apply --dry-run``.

    Attributes:
        sites: {"name", "shape", "dtype", "cached"} of each text encoder layer that would be edited;
            `cached`: whether its second
            moments are there already.
        estimates: see `forgetcli.pipeline.estimates.estimate`.
    """

    base: Mapping[str, str | None]
    recipe_sha256: str
    method: str
    parameters: Mapping[str, object]
    pairs: tuple[tuple[str, str], ...]
    preserve: int
    sites: tuple[Mapping[str, object], ...]
    cache: Mapping[str, int]
    estimates: Mapping[str, object]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
        return {**asdict(self), "pairs": [list(p) for p in self.pairs], "sites": list(self.sites)}


def plan(
    recipe: Recipe | str | Path,
    *,
    model: str | None = None,
    config: Path | str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Plan:
    """Check recipe and model and say what would be done, and what it would need; loads no weights
    and writes nothing.

    Raises:
        ForgetError: recipe or model cannot be used, a prompt is too long for it, or it has no such
            site.
    """
    from forgetcli.checkpoint import base as checkpoint
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.editing.moments import are_cached
    from forgetcli.models import vocabulary
    from forgetcli.models.tokens import tokenise
    from forgetcli.pipeline import estimates, inspect

    watch = Stopwatch()
    recipe = recipe if isinstance(recipe, recipes.Recipe) else recipes.load(recipe)
    base = checkpoint.resolve(model or recipe.model, config=config)
    recipe = recipe.on(models.family_of(base.settings))
    method = methods.get(recipe.method)
    parameters = method.Parameters.model_validate(recipe.parameters)
    with watch.stage("hash"):
        digest = base.digest
    loaded, found = models.load(base, device=device, dtype=dtype), inspect.inspect(base)
    tokenise(
        loaded.tokenizer, [prompt for pair in recipe.edit_pairs() for prompt in pair], strict=True
    )
    edit = getattr(parameters, "edit", None)
    blocks, balance = getattr(edit, "sites", None), getattr(edit, "balance_empty", None)
    sites = (
        found.text_sites(blocks, getattr(edit, "encoders", ("clip",)))
        if blocks and balance is not None
        else []
    )
    prompts, cache = recipe.preserve_prompts(), MomentCache()
    sets = [(prompts, balance)] + (
        [(vocabulary.words(loaded.tokenizer), False)] if sites and getattr(edit, "prior", 0) else []
    )
    there = {
        s.name: [are_cached(loaded, s, part, cache, balance_empty=empty) for part, empty in sets]
        for s in sites
    }
    rows = tuple(
        {"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "cached": all(there[s.name])}
        for s in sites
    )
    hits, wanted = sum(map(sum, there.values())), sum(map(len, there.values()))
    with watch.stage("estimate"):
        pairs = recipe.edit_pairs()
        needs = estimates.estimate(
            loaded,
            found,
            estimates.Task(
                work=method.work(recipe, parameters) if hasattr(method, "work") else None,
                concepts=tokenise(loaded.tokenizer, [concept for concept, _ in pairs]),
                together=min(getattr(getattr(parameters, "refine", None), "batch", 0), len(pairs)),
                sites=sites,
                cached=hits,
                of=wanted,
                hashing=watch.report()["hash"],
            ),
        )
    return Plan(
        base={"id": base.id, "revision": base.revision, "digest": digest},
        recipe_sha256=recipe.sha256,
        method=recipe.method,
        parameters=parameters.model_dump(mode="json"),
        pairs=tuple(recipe.edit_pairs()),
        preserve=len(prompts),
        sites=rows,
        cache={"hits": hits, "misses": wanted - hits},
        estimates=needs,
        seconds=watch.report(),
    )


def stored_error(stored, site: str) -> float:
    """‖stored − wanted‖ / ‖Δ‖ of a site's weight, as re-read from the file."""
    names = (f"{site}.weight", site)
    return next(
        s.error
        for (component, parameter), s in stored.items()
        if parameter in names or f"{component}.{parameter}" in names
    )


def versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers", "safetensors")
    return {
        "forgetcli": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
