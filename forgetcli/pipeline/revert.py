"""`revert`: edits taken out of a folder, the others left as if they alone had been made to the
original base.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forgetcli import recipe as recipes
from forgetcli.artifact import card, ledger, provenance
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.ledger_files import Entry
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.editing.edit import SiteReport
from forgetcli.errors import ForgetError, ModelError
from forgetcli.pipeline.apply import versions
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import usage
from forgetcli.storage import atomic
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import refuse_overlap, sha256_file

CONTROL = "none"  # the method of a folder without edits


@dataclass(frozen=True)
class Logged:
    """One edit, as ``forget log`` shows it; `date` is when it was made, "" if the manifest does not
    say.
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


@dataclass(frozen=True)
class Log:
    """The edits of a folder, in their order, and the model that they began with."""

    folder: Path
    base: Mapping[str, str | None]
    edits: tuple[Logged, ...]

    def as_dict(self) -> dict:
        edits = [
            asdict(e) | {"concepts": [{"concept": c, "target": t} for c, t in e.concepts]}
            for e in self.edits
        ]
        return {"folder": str(self.folder), "base": dict(self.base), "edits": edits}


@dataclass(frozen=True)
class Reverted:
    """What `revert` did: `reverted` are the numbers taken out, `left` those that are still in."""

    output: Path
    base: Mapping[str, str | None]
    reverted: tuple[int, ...]
    left: tuple[int, ...]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
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
    folder = Path(folder)
    manifest = provenance.load(folder)
    found = ledger.load(folder)
    if found is None and manifest.edited:
        raise _no_ledger(folder)
    if found is None:
        return Log(
            folder,
            {
                "id": manifest.base_id,
                "revision": manifest.base_revision,
                "digest": manifest.base_digest,
            },
            (),
        )
    dates = ledger.dates(folder, found)
    edits = (
        Logged(
            e.number,
            e.name,
            e.method,
            tuple(e.concepts),
            dates[str(e.number)],
            e.delta_rel,
            e.recipe_sha256,
            e.applied_to,
            e.tokens,
        )
        for e in found.edits
    )
    return Log(folder, _named(found.book.base), tuple(edits))


def revert(
    folder: Path | str,
    numbers: Collection[int] | None,
    *,
    output: Path | str | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> Reverted:
    """Take edits out of a folder. The base is not needed: the ledger has its bytes of every tensor
    that was edited.

    What is left is round(W + Σ Δ_i) over the other edits; without any, every file of the base as it
    was. An edit that was found
    on top of one that is taken out stays as it is: it is not made anew.

    Args:
        folder: an edited model.
        numbers: the edits' numbers (`log` has them); None: all.
        output: where the result goes; by default the folder itself, which needs `force` as any
            existing output.
        force: replace an earlier output, in one step.
    Raises:
        ForgetError: ledger.no-such-edit; ledger.none; ledger.damaged; ledger.other-weights;
            model.changed: a file of the
            folder is not what its manifest says; and what `store.publishing` and `provenance.write`
            raise.
    """
    observer, watch, folder = observer or Silent(), Stopwatch(), Path(folder)
    output = folder if output is None else Path(output)
    started = datetime.now(UTC)
    manifest, whole = provenance.load(folder), ledger.load(folder)
    if whole is None:
        raise _no_ledger(folder)
    numbers = _known(whole, folder, numbers)
    rest = whole.without(numbers)
    refuse_overlap(output, folder, may_replace=True)
    with atomic.publishing(output, force=force) as staging:
        with watch.stage("check"):
            observer.stage("checking the ledger")
            whole.check_fits(folder)
        with watch.stage("write"):
            observer.stage("writing")
            copy(folder, staging, whole, manifest.subjects)
            stored = whole.restore(staging, rest)
            rest.write(staging)
            report = _report(stored, rest, numbers)
            if rest.edits:
                _write_card(folder, staging, rest, report)
            now = datetime.now(UTC).isoformat()
            provenance.write(
                staging,
                base=whole.book.base,
                stored=stored,
                report=report,
                edits=_listed(rest),
                **_last(rest, whole),
                run_details={
                    "startedOn": started.isoformat(),
                    "finishedOn": now,
                    "edits": ledger.dates(folder, rest),
                    "reverted": sorted(numbers),
                    "versions": versions(),
                },
            )
    observer.done()
    return Reverted(
        output,
        _named(whole.book.base),
        tuple(sorted(numbers)),
        tuple(e.number for e in rest.edits),
        watch.report(),
    )


def copy(folder: Path, staging: Path, whole: Ledger, subjects: Mapping[str, str]) -> None:
    """The base's files as the folder has them, with the settings beside a single file; and the
    README.md that the base had.

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
        copy_file(folder / path, target)
        if sha256_file(target) != subjects.get(path):
            raise ModelError(
                "model.changed",
                f"{path} of {folder} is not what its manifest says",
                f"'forget verify {folder}' lists all differences",
            )
    text = whole.card()
    if text is not None:
        (staging / provenance.CARD).write_bytes(text)


def _write_card(folder: Path, staging: Path, rest: Ledger, report: Mapping[str, Any]) -> None:
    """A card of the edits that are left, in place of the base's; licence and base model are those
    that the base's card names,
    or, without one, the edited folder's."""
    try:
        last = recipes.parse(rest.edits[-1].recipe)
    except ForgetError:  # made by a plugin that is not here: the base's card, or none
        return
    origin, named = rest.book.base, folder if rest.card() is None else staging
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


def _listed(rest: Ledger) -> list[dict[str, Any]]:
    def described(e: Entry) -> dict[str, Any]:
        recipe = {"name": e.name, "digest": {"sha256": e.recipe_sha256}}
        return {
            "number": e.number,
            "method": e.method,
            "parameters": e.parameters,
            "recipe": recipe,
        }

    return [described(e) for e in rest.edits]


def _report(stored, rest: Ledger, numbers: Collection[int]) -> dict[str, Any]:
    sites = []
    for (component, parameter), part in sorted(stored.items()):
        place = next(
            p for p in rest.book.places if (p.component, p.parameter) == (component, parameter)
        )
        W = rest.original(place).double()
        size = float((rest.wanted(place) - W).norm() / W.norm().clamp_min(1e-300))
        sites.append(
            asdict(SiteReport(parameter.removesuffix(".weight"), size))
            | {"stored_error": part.error}
        )
    return {
        "schema_version": 1,
        "sites": sites,
        "reverted": sorted(numbers),
        "left": [e.number for e in rest.edits],
    }


def _named(base) -> dict[str, str | None]:
    return {"id": base.id, "revision": base.revision, "digest": base.digest}
