"""`log`: lists the edits in a folder. It needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact import ledger as ledgers
from forgetcli.artifact.edited import EditedModel
from forgetcli.errors import ModelError
from forgetcli.pipeline.job import ModelId


@dataclass(frozen=True)
class LoggedEdit:
    """One edit, as ``forget log`` shows it.

    Attributes:
        number: the edit's number, from 1. It does not change when other edits are removed.
        name, recipe_sha256: the recipe.
        method: the editing method.
        concepts: pairs of concept and target.
        date: the date of the edit; empty if the manifest has none.
        delta_rel: ‖Δ‖_F / ‖W‖_F over all tensors that the edit changed.
        applied_to: digest of the model before the edit.
        held_tokens: COMPONENT:NAME of a layer → the number of concept tokens that later edits
            protect there.
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
    """The edits of a folder in order, and the base model."""

    folder: Path
    base: ModelId
    edits: tuple[LoggedEdit, ...]

    def as_dict(self) -> dict[str, Any]:
        edits = [edit.as_dict() for edit in self.edits]
        return {"folder": str(self.folder), "base": asdict(self.base), "edits": edits}


def log(folder: Path | str) -> Log:
    """The edits in a folder.

    Raises:
        ModelError: model.not-edited, model.manifest, ledger.damaged; ledger.none: the folder was
            edited by a version of forget that wrote no ledger.
    """
    edited = EditedModel(Path(folder))
    manifest = edited.manifest
    ledger = edited.ledger
    if ledger is None:
        if manifest.edited:
            raise no_ledger(edited.folder)
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


def no_ledger(folder: Path) -> ModelError:
    """The error for a folder without a ledger."""
    return ModelError(
        "ledger.none",
        f"{folder} has no ledger: it has no edits, or an early version of forget wrote it",
        "apply the recipes to the base model again",
    )
