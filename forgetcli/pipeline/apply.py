"""`apply`: from a recipe to a published edited model, on one page.

recipe → base model → second moments → null space → refinement → closed form → check → patched
checkpoint + manifest
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import __version__, methods, models
from forgetcli.artifact import card, ledger, ledger_extension, patch, statement
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.previous_edits import PreviousEdits
from forgetcli.bundled import word_lists
from forgetcli.display import Result, Shown, percent
from forgetcli.editing.check import Check, check
from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import ForgetError
from forgetcli.models import offload as offloading
from forgetcli.pipeline import memory
from forgetcli.pipeline.job import Job, ModelId, prepare
from forgetcli.pipeline.task import task_of
from forgetcli.process import numerics
from forgetcli.process.device import MIXED
from forgetcli.progress import Observer, Silent, Stopwatch, enter
from forgetcli.storage import atomic
from forgetcli.storage.copying import Copying
from forgetcli.storage.files import refuse_overlap

if TYPE_CHECKING:
    from forgetcli.artifact.patch import Stored
    from forgetcli.editing.task import Task
    from forgetcli.models.base import LoadedModel
    from forgetcli.process.numerics import Numerics
    from forgetcli.recipe import Recipe

# The stages of an edit, for `progress.Stages`.
STAGES = ("loading", "editing", "checking", "writing")
PACKAGES = ("torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True)
class AppliedSite(SiteReport):
    """Figures of one edited site, with what storing it lost; the keys are those of the report.

    Attributes:
        stored_error: ‖stored − exact‖_F / ‖Δ‖_F of the site's weight, as read back from the file.
    """

    stored_error: float | None = None


@dataclass(frozen=True, repr=False)
class ApplyResult(Result):
    """What `apply` did; `as_dict` has the stable keys of ``apply --json``.

    Attributes:
        output: the edited folder.
        base: id, revision and digest of the base model.
        recipe_sha256, method: the recipe's digest and its method.
        sites: figures of each edited layer.
        check: figures of the check after the edit; see `forgetcli.editing.check`.
        cache: hits and misses of second moments.
        seconds: by stage.
        peak_rss, peak_gpu: largest memory of the process so far, in bytes, in RAM and on a CUDA
            device; None if unknown.
    """

    output: Path
    base: ModelId
    recipe_sha256: str
    method: str
    sites: tuple[AppliedSite, ...]
    check: Mapping[str, float | None]
    cache: Mapping[str, int]
    seconds: Mapping[str, float]
    peak_rss: int | None = None
    peak_gpu: int | None = None

    def as_dict(self) -> dict[str, Any]:
        sites = [asdict(site) for site in self.sites]
        return {**asdict(self), "output": str(self.output), "sites": sites}

    def shown(self) -> Shown:
        moved, drift = self.check.get("moved"), self.check.get("preserve_drift")
        changes = [site.delta_rel for site in self.sites if site.delta_rel is not None]
        effect = "" if moved is None else f", moved {percent(moved)} of the way to the target"
        return Shown(
            f"{self.output}: {self.base.id} edited by {self.method}{effect}",
            ("", ""),
            (
                ("base model", self.base.id),
                ("method", self.method),
                ("moved to the target", percent(moved)),
                ("preserve prompts changed by", "–" if drift is None else f"{drift:.2%}"),
                ("edited layers", str(len(self.sites))),
                ("largest change of a layer", percent(max(changes, default=None))),
                ("seconds", f"{self.seconds['total']:.1f}"),
                ("written to", str(self.output)),
            ),
        )


def apply(
    recipe: Recipe | str | Path,
    *,
    model: str | None = None,
    output: Path | str = "edited",
    device: str | None = None,
    dtype: str | None = None,
    offload: str = offloading.AUTO,
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
        output: folder to write. At any moment it is missing, the earlier one, or complete.
        device, dtype: device and dtype that the model runs with; default: detected, and see
            `models.dtype_of`. The algebra is always in float64.
        offload: whether networks leave a GPU when they are not in use: auto (if they do not fit
            there together), model or none. Only for methods that compute no gradients through the
            denoiser.
        force: replace an earlier output.
        strict: an edit that the check finds without effect, or too strong, is an error; otherwise
            it is only reported.
        config: for a single file: the diffusers folder with its configs and tokenizer; see
            `checkpoint.resolve`.
        copying: how untouched files get into the output: `reflink` where the file system can,
            `copy`, or hard `link`.
        cache: of second moments; default: the user's.
    Raises:
        ForgetError: recipe, model, edit or output; nothing is left behind.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    started = datetime.now(UTC)
    job = prepare(recipe, model, config)
    refuse_overlap(output, job.base.place, kind="the base model")
    copying = Copying(copying)
    previous = PreviousEdits(job.base)
    with atomic.publishing(output, force=force) as staging:
        patch.check_room(job.base, staging, output, copying)
        enter(observer, "loading", alone=True)
        with watch.stage("load"):
            loaded = models.load(job.base, device=device, dtype=dtype, observer=observer)
        with numerics.recorded(loaded.device) as computed:
            enter(observer, "editing")
            with watch.stage("edit"):
                moments = cache or MomentCache()
                task = task_of(job.recipe, job.base, moments, previous, loaded.tokenizer)
                _offload(loaded, job, task, offload, observer)
                algorithm = methods.load_edit(job.recipe.method)
                edit = algorithm(loaded, task, job.parameters, observer)
                edit = replace(edit, moments=(*edit.moments, *_sets(job.recipe)))
            enter(observer, "checking")
            with watch.stage("check"):
                checked = _checked(loaded, edit, task, strict, observer)
        enter(observer, "writing")
        with watch.stage("write"):
            observer.stage("writing")
            sites = _write(
                job, loaded, edit, checked, previous, staging, copying, started, computed
            )
    observer.done()
    return _result(job, output, edit, checked, sites, watch)


def last_seconds(output: Path | str) -> float | None:
    """How long the edit at `output` took, by its manifest; None if it does not say."""
    try:
        metadata = EditedModel.open(output).manifest.run_details["metadata"]
        began, ended = (
            datetime.fromisoformat(metadata[key]) for key in ("startedOn", "finishedOn")
        )
        return (ended - began).total_seconds()
    except (ForgetError, KeyError, TypeError, ValueError):
        return None


def _result(
    job: Job,
    output: Path,
    edit: Edit,
    checked: Check,
    sites: tuple[AppliedSite, ...],
    watch: Stopwatch,
) -> ApplyResult:
    return ApplyResult(
        output=output,
        base=ModelId.of(job.base),
        recipe_sha256=job.recipe.sha256,
        method=job.recipe.method,
        sites=sites,
        check=checked.as_dict(),
        cache=dict(edit.cache),
        seconds=watch.report(),
        peak_rss=memory.peak_rss(),
        peak_gpu=memory.peak_gpu(),
    )


def _offload(loaded: LoadedModel, job: Job, task: Task, choice: str, observer: Observer) -> None:
    """Offload the model's networks, if that was chosen and the method permits it."""
    if not offloading.chosen(loaded, choice, offloading.edited_networks(loaded)):
        return
    cost = job.cost(task)
    if cost is None or cost.descents:
        observer.note(
            f"{job.recipe.method} may compute gradients through the denoiser: all networks stay on "
            "the GPU"
        )
        return
    observer.note(offloading.NOTE)
    offloading.enable(loaded)


def _checked(
    loaded: LoadedModel, edit: Edit, task: Task, strict: bool, observer: Observer
) -> Check:
    """Measure the effect of the edit.

    Raises:
        EditError: `strict`, and the effect is missing or too strong. The control, which changes
            nothing, is not expected to have one.
    """
    checked = check(loaded, edit, task.pairs, task.preserve, task.seed, observer)
    if strict and edit.weights:
        checked.enforce()
    return checked


def _write(
    job: Job,
    loaded: LoadedModel,
    edit: Edit,
    checked: Check,
    previous: PreviousEdits,
    staging: Path,
    copying: Copying,
    started: datetime,
    computed: Numerics,
) -> tuple[AppliedSite, ...]:
    """Fill `staging`: patched copy of the base, ledger, card, recipe, report and manifest."""
    base = job.base
    recipe = job.recipe
    parameters = job.parameters.model_dump(mode="json")
    earlier = previous.fitting_ledger()
    changes = patch.changes(base, edit.weights)
    edits = ledger_extension.extended(earlier, base, edit, changes, recipe, parameters)
    stored = patch.write(base, staging, changes, copying, edits.values if edits else None)
    sites = tuple(
        AppliedSite(**asdict(site), stored_error=_stored_error(stored, site.name))
        for site in edit.sites
    )
    report: dict[str, Any] = {
        "schema_version": 1,
        "sites": [asdict(site) for site in sites],
        "check": checked.as_dict(),
        "losses": list(edit.losses),
    }
    if edit.attacks:
        report["attacks"] = list(edit.attacks)
    finished = datetime.now(UTC).isoformat()
    if edits:
        edits.write(staging)
    card.write(
        staging,
        base=base,
        recipe=recipe,
        edits=edits,
        sites=report["sites"],
        check=checked.as_dict(),
    )
    statement.write(
        staging,
        base=base,
        recipe_bytes=recipe.raw,
        method=recipe.method,
        parameters=parameters,
        stored=stored,
        materials=list(edit.moments),
        report=report,
        run_details={
            "startedOn": started.isoformat(),
            "finishedOn": finished,
            "edits": ledger.dates(previous.manifest, edits, finished),
            "device": str(loaded.device),
            "dtype": recorded_dtype(loaded.dtype_name),
            "cache": dict(edit.cache),
            "numerics": computed.as_dict(),
            "versions": versions(),
        },
    )
    return sites


def recorded_dtype(name: str) -> str:
    """A dtype in the manifest, as torch names it; `mixed` is no dtype of torch's."""
    return name if name == MIXED else f"torch.{name}"


def _sets(recipe: Recipe) -> list[dict[str, str]]:
    """The preserve sets that went in, for the manifest: {"name": "set/NAME", "sha256"} each."""
    names = dict.fromkeys(recipe.preserve.sets)
    return [{"name": f"set/{n}", "sha256": word_lists.preserve_set(n).sha256} for n in names]


def _stored_error(stored: Mapping[tuple[str, str], Stored], site: str) -> float:
    """‖stored − exact‖ / ‖Δ‖ of a site's weight, as read back from the file."""
    names = (f"{site}.weight", site)
    return next(
        part.error
        for (component, parameter), part in stored.items()
        if parameter in names or f"{component}.{parameter}" in names
    )


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that the result depends on."""
    return {
        "forgetcli": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
