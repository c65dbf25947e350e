"""`revert`: removes edits from a folder. The result is as if only the other edits had been applied
to the base model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forgetcli import recipe as recipes
from forgetcli.artifact import card, statement
from forgetcli.artifact import ledger as ledgers
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.manifest import CARD
from forgetcli.artifact.manifest_schema import ListedEdit
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.errors import ForgetError, ModelError
from forgetcli.pipeline.apply import AppliedSite, versions
from forgetcli.pipeline.job import ModelId
from forgetcli.pipeline.log import no_ledger
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import usage
from forgetcli.storage import atomic
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import inside, refuse_overlap, sha256_file

CONTROL = "none"  # the method of a folder without edits


@dataclass(frozen=True)
class Reverted:
    """The result of `revert`.

    Attributes:
        output: the new folder.
        base: the base model, to which the first edit was applied.
        reverted: numbers of the removed edits.
        left: numbers of the remaining edits.
        seconds: duration of each stage.
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


def revert(
    folder: Path | str,
    numbers: Collection[int] | None,
    *,
    output: Path | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Reverted:
    """Remove edits from a folder. The base model is not needed: the ledger has the base model's
    bytes of every edited tensor.

    The result is round(W + Σ Δ_i), summed over the remaining edits. If none remains, all files are
    those of the base model. An edit that was computed after a removed one is not computed again.

    Args:
        folder: an edited model.
        numbers: the numbers of the edits, as `log` lists them; None: all.
        output: the folder for the result. Default: `folder`, which like any existing output needs
            `force`.
        force: replace an existing output, in one step.
        dry_run: make all checks that are possible in advance, and write nothing.
    Raises:
        ForgetError: ledger.no-such-edit; ledger.none; ledger.damaged; ledger.other-weights;
            model.changed: a file of the folder differs from its manifest; and the errors of
            `atomic.publishing` and `statement.write`.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    edited = EditedModel(Path(folder))
    output = edited.folder if output is None else Path(output)
    started = datetime.now(UTC)
    manifest = edited.manifest
    ledger = edited.ledger
    if ledger is None:
        raise no_ledger(edited.folder)
    removed = _numbers_to_remove(ledger, edited.folder, numbers)
    remaining = ledger.without(removed)
    refuse_overlap(output, edited.folder, may_replace=True)
    if dry_run:
        atomic.refuse_unwritable(output, folder=True, force=force)
        with watch.stage("check"):
            observer.stage("checking the ledger")
            ledger.check_fits(edited.folder)
    else:
        with atomic.publishing(output, force=force) as staging:
            with watch.stage("check"):
                observer.stage("checking the ledger")
                ledger.check_fits(edited.folder)
            with watch.stage("write"):
                observer.stage("writing")
                _copy_base_files(edited.folder, staging, ledger, manifest.subjects)
                _write(edited, staging, ledger, remaining, removed, started)
    observer.done()
    return Reverted(
        output=output,
        base=ModelId.of(ledger.book.base),
        reverted=tuple(sorted(removed)),
        left=tuple(entry.number for entry in remaining.edits),
        seconds=watch.report(),
    )


def _write(
    edited: EditedModel,
    staging: Path,
    ledger: Ledger,
    remaining: Ledger,
    removed: Collection[int],
    started: datetime,
) -> None:
    """Write the tensors, the remaining ledger, the card and the manifest in `staging`."""
    stored = ledger.restore(staging, remaining)
    remaining.write(staging)
    report = _report(stored, remaining, removed)
    if remaining.edits:
        _write_card(edited.folder, staging, remaining, report)
    now = datetime.now(UTC).isoformat()
    statement.write(
        staging,
        base=ledger.book.base,
        stored=stored,
        report=report,
        edits=_listed(remaining),
        **_recipe_and_method(remaining, ledger),
        run_details={
            "startedOn": started.isoformat(),
            "finishedOn": now,
            "edits": ledgers.dates(edited.manifest, remaining),
            "reverted": sorted(removed),
            "versions": versions(),
        },
    )


def _copy_base_files(
    folder: Path, staging: Path, ledger: Ledger, subjects: Mapping[str, str]
) -> None:
    """Copy from the edited folder all files that the base model has, and restore its README.md.

    For a single file, the folder with its settings is copied too.

    Raises:
        ModelError: model.changed.
    """
    base_files = ledger.book.base.files
    settings = [
        path for path in subjects if path.startswith(f"{CONFIG}/") and path not in base_files
    ]
    for path in [*base_files, *settings]:
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
                f"{path} of {folder} differs from its manifest",
                f"'forget verify {folder}' lists all differences",
            )
    text = ledger.card()
    if text is not None:
        (staging / CARD).write_bytes(text)


def _write_card(folder: Path, staging: Path, remaining: Ledger, report: Mapping[str, Any]) -> None:
    """Replace the base model's card with a card of the remaining edits.

    Licence and base model are taken from the base model's card, or from the edited folder's card if
    the base model has none.
    """
    try:
        last = recipes.parse(remaining.edits[-1].recipe)
    except ForgetError:
        # The recipe needs a plugin that is not installed. The base model's card stays, if any.
        return
    base = remaining.book.base
    folder_of_card = folder if remaining.card() is None else staging
    card.write(
        staging,
        base=Base(base.id, base.revision, folder_of_card),
        recipe=last,
        edits=remaining,
        sites=report["sites"],
        check={},
    )


def _numbers_to_remove(ledger: Ledger, folder: Path, numbers: Collection[int] | None) -> set[int]:
    existing = [edit.number for edit in ledger.edits]
    if numbers is None:
        return set(existing)
    for number in numbers:
        if number not in existing:
            raise ForgetError(
                "ledger.no-such-edit",
                f"{folder} has no edit {number}",
                f"it has {', '.join(map(str, existing))}: 'forget log {folder}'",
            )
    return set(numbers)


def _recipe_and_method(remaining: Ledger, ledger: Ledger) -> dict[str, Any]:
    """The manifest's recipe, method, parameters and materials: those of the last remaining edit.

    If no edit remains, they are the removed edit's recipe with the method that changes nothing.
    """
    if remaining.edits:
        last = remaining.edits[-1]
        return {
            "recipe_bytes": last.recipe.encode(),
            "method": last.method,
            "parameters": last.parameters,
            "materials": [m.model_dump() for m in last.materials],
        }
    body, record = usage.split(ledger.edits[-1].recipe)
    text = usage.join(body, replace(record, method=CONTROL))
    return {"recipe_bytes": text.encode(), "method": CONTROL, "parameters": {}, "materials": []}


def _listed(remaining: Ledger) -> list[ListedEdit]:
    return [
        statement.listed_edit(
            edit.number, edit.method, edit.parameters, edit.name, edit.recipe_sha256
        )
        for edit in remaining.edits
    ]


def _report(
    stored: Mapping[tuple[str, str], Stored], remaining: Ledger, removed: Collection[int]
) -> dict[str, Any]:
    """The content of the report: the size of the remaining change at each site."""
    # A parameter can have several places in files. The report uses the first one.
    place_of = {
        (place.component, place.parameter): place for place in reversed(remaining.book.places)
    }
    sites = []
    for key, part in sorted(stored.items()):
        before = remaining.original(place_of[key]).double()
        change = remaining.exact(place_of[key]) - before
        relative_size = float(change.norm() / before.norm().clamp_min(1e-300))
        name = place_of[key].parameter.removesuffix(".weight")
        sites.append(asdict(AppliedSite(name, relative_size, stored_error=part.error)))
    return {
        "schema_version": 1,
        "sites": sites,
        "reverted": sorted(removed),
        "left": [edit.number for edit in remaining.edits],
    }
