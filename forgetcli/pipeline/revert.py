"""`revert`: edits are taken out of a folder; the others stay as if only they had been made to the
base.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forgetcli import recipe as recipes
from forgetcli.artifact import card, statement
from forgetcli.artifact import ledger as ledgers
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.manifest import CARD, ListedEdit
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.errors import ForgetError, ModelError
from forgetcli.pipeline.apply import AppliedSite, versions
from forgetcli.pipeline.job import ModelId
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import usage
from forgetcli.storage import atomic
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import inside, refuse_overlap, sha256_file

CONTROL = "none"  # the method of a folder without edits


@dataclass(frozen=True)
class LoggedEdit:
    """One edit, as ``forget log`` shows it.

    Attributes:
        number: from 1; it does not change when other edits are taken out.
        name, recipe_sha256: the recipe.
        method: the method that edited.
        concepts: pairs of concept and target.
        date: when the edit was made; "" if the manifest does not say.
        delta_rel: ‖Δ‖_F / ‖W‖_F over all tensors that it changed.
        applied_to: digest of the model that was edited.
        held_tokens: COMPONENT:NAME → concept tokens that later edits protect at this layer.
    """

    number: int
    name: str
    method: str
    concepts: tuple[tuple[str, str], ...]
    date: str
    delta_rel: float
    recipe_sha256: str
    applied_to: str
    held_tokens: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        concepts = [{"concept": concept, "target": target} for concept, target in self.concepts]
        return asdict(self) | {"concepts": concepts}


@dataclass(frozen=True)
class Log:
    """The edits of a folder, in their order, and the model that the first one was made to."""

    folder: Path
    base: ModelId
    edits: tuple[LoggedEdit, ...]

    def as_dict(self) -> dict[str, Any]:
        edits = [edit.as_dict() for edit in self.edits]
        return {"folder": str(self.folder), "base": asdict(self.base), "edits": edits}


@dataclass(frozen=True)
class Reverted:
    """The result of `revert`.

    Attributes:
        output: the new folder.
        base: the model that the first edit was made to.
        reverted: numbers of the edits that were taken out.
        left: numbers of the edits that remain.
        seconds: by stage.
    """

    output: Path
    base: ModelId
    reverted: tuple[int, ...]
    left: tuple[int, ...]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "output": str(self.output),
            "reverted": list(self.reverted),
            "left": list(self.left),
        }


def log(folder: Path | str) -> Log:
    """The edits in a folder.

    Raises:
        ModelError: model.not-edited, model.manifest, ledger.damaged; ledger.none: an edit from
            before there were ledgers.
    """
    edited = EditedModel(Path(folder))
    manifest = edited.manifest
    ledger = edited.ledger
    if ledger is None:
        if manifest.edited:
            raise _no_ledger(edited.folder)
        base = ModelId(manifest.base_id, manifest.base_revision, manifest.base_digest)
        return Log(edited.folder, base, ())
    dates = ledgers.dates(manifest, ledger)
    edits = (
        LoggedEdit(
            number=entry.number,
            name=entry.name,
            method=entry.method,
            concepts=tuple(entry.concepts),
            date=dates[str(entry.number)],
            delta_rel=entry.delta_rel,
            recipe_sha256=entry.recipe_sha256,
            applied_to=entry.applied_to,
            held_tokens=entry.tokens,
        )
        for entry in ledger.edits
    )
    return Log(edited.folder, ModelId.of(ledger.book.base), tuple(edits))


def revert(
    folder: Path | str,
    numbers: Collection[int] | None,
    *,
    output: Path | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Reverted:
    """Take edits out of a folder. The base is not needed: the ledger has its bytes of every tensor
    that was edited.

    The result is round(W + Σ Δ_i) over the remaining edits; without any, every file of the base as
    it was. An edit that was computed on top of a removed one stays as it is: it is not repeated.

    Args:
        folder: an edited model.
        numbers: the edits' numbers (`log` has them); None: all.
        output: where the result goes; by default the folder itself, which needs `force` as any
            existing output.
        force: replace an earlier output, in one step.
        dry_run: check everything that can be checked beforehand, and write nothing.
    Raises:
        ForgetError: ledger.no-such-edit; ledger.none; ledger.damaged; ledger.other-weights;
            model.changed: a file of the folder is not what its manifest says; and the errors of
            `atomic.publishing` and `statement.write`.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    edited = EditedModel(Path(folder))
    output = edited.folder if output is None else Path(output)
    started = datetime.now(UTC)
    manifest = edited.manifest
    whole = edited.ledger
    if whole is None:
        raise _no_ledger(edited.folder)
    removed = _known(whole, edited.folder, numbers)
    rest = whole.without(removed)
    refuse_overlap(output, edited.folder, may_replace=True)
    if dry_run:
        atomic.refuse_unwritable(output, folder=True, force=force)
        with watch.stage("check"):
            observer.stage("checking the ledger")
            whole.check_fits(edited.folder)
    else:
        with atomic.publishing(output, force=force) as staging:
            with watch.stage("check"):
                observer.stage("checking the ledger")
                whole.check_fits(edited.folder)
            with watch.stage("write"):
                observer.stage("writing")
                copy(edited.folder, staging, whole, manifest.subjects)
                _write(edited, staging, whole, rest, removed, started)
    observer.done()
    return Reverted(
        output=output,
        base=ModelId.of(whole.book.base),
        reverted=tuple(sorted(removed)),
        left=tuple(entry.number for entry in rest.edits),
        seconds=watch.report(),
    )


def _write(
    edited: EditedModel,
    staging: Path,
    whole: Ledger,
    rest: Ledger,
    removed: Collection[int],
    started: datetime,
) -> None:
    """Give the tensors in `staging` their values, and write ledger, card and manifest."""
    stored = whole.restore(staging, rest)
    rest.write(staging)
    report = _report(stored, rest, removed)
    if rest.edits:
        _write_card(edited.folder, staging, rest, report)
    now = datetime.now(UTC).isoformat()
    statement.write(
        staging,
        base=whole.book.base,
        stored=stored,
        report=report,
        edits=_listed(rest),
        **_last(rest, whole),
        run_details={
            "startedOn": started.isoformat(),
            "finishedOn": now,
            "edits": ledgers.dates(edited.manifest, rest),
            "reverted": sorted(removed),
            "versions": versions(),
        },
    )


def copy(folder: Path, staging: Path, whole: Ledger, subjects: Mapping[str, str]) -> None:
    """Copy the base's files as the folder has them, with the settings beside a single file, and
    write the README.md that the base had.

    Raises:
        ModelError: model.changed.
    """
    beside = [
        path
        for path in subjects
        if path.startswith(f"{CONFIG}/") and path not in whole.book.base.files
    ]
    for path in [*whole.book.base.files, *beside]:
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / path).is_file():
            raise ModelError(
                "model.changed",
                f"{path} of {folder} is missing",
                f"'forget verify {folder}' lists all differences",
            )
        inside(folder, folder / path)
        copy_file(folder / path, target)
        if sha256_file(target) != subjects.get(path):
            raise ModelError(
                "model.changed",
                f"{path} of {folder} is not what its manifest says",
                f"'forget verify {folder}' lists all differences",
            )
    text = whole.card()
    if text is not None:
        (staging / CARD).write_bytes(text)


def _write_card(folder: Path, staging: Path, rest: Ledger, report: Mapping[str, Any]) -> None:
    """Replace the base's card by one of the edits that remain.

    Licence and base model are those that the base's card names; without one, the edited folder's.
    """
    try:
        last = recipes.parse(rest.edits[-1].recipe)
    except ForgetError:  # made by a plugin that is not here: the base's card, or none
        return
    origin = rest.book.base
    named = folder if rest.card() is None else staging
    card.write(
        staging,
        base=Base(origin.id, origin.revision, named),
        recipe=last,
        edits=rest,
        sites=report["sites"],
        check={},
    )


def _known(whole: Ledger, folder: Path, numbers: Collection[int] | None) -> set[int]:
    there = [e.number for e in whole.edits]
    for number in numbers or ():
        if number not in there:
            raise ForgetError(
                "ledger.no-such-edit",
                f"{folder} has no edit {number}",
                f"it has {', '.join(map(str, there))}: 'forget log {folder}'",
            )
    return set(there if numbers is None else numbers)


def _no_ledger(folder: Path) -> ModelError:
    return ModelError(
        "ledger.none",
        f"{folder} has no ledger: no edit is left, or it was made before there were any",
        "apply the recipes to the base again",
    )


def _last(rest: Ledger, whole: Ledger) -> dict[str, Any]:
    """The recipe that the manifest names. A folder without edits is what the control makes of the
    last one's recipe.
    """
    if rest.edits:
        last = rest.edits[-1]
        return {
            "recipe_bytes": last.recipe.encode(),
            "method": last.method,
            "parameters": last.parameters,
            "materials": [m.model_dump() for m in last.materials],
        }
    body, added = usage.split(whole.edits[-1].recipe)
    text = usage.join(body, usage.Record(added.overrides, added.files, CONTROL))
    return {"recipe_bytes": text.encode(), "method": CONTROL, "parameters": {}, "materials": []}


def _listed(rest: Ledger) -> list[ListedEdit]:
    return [
        statement.listed_edit(e.number, e.method, e.parameters, e.name, e.recipe_sha256)
        for e in rest.edits
    ]


def _report(
    stored: Mapping[tuple[str, str], Stored], rest: Ledger, numbers: Collection[int]
) -> dict[str, Any]:
    places = {(place.component, place.parameter): place for place in reversed(rest.book.places)}
    sites = []
    for key, part in sorted(stored.items()):
        before = rest.original(places[key]).double()
        change = rest.exact(places[key]) - before
        size = float(change.norm() / before.norm().clamp_min(1e-300))
        name = places[key].parameter.removesuffix(".weight")
        sites.append(asdict(AppliedSite(name, size, stored_error=part.error)))
    return {
        "schema_version": 1,
        "sites": sites,
        "reverted": sorted(numbers),
        "left": [e.number for e in rest.edits],
    }
