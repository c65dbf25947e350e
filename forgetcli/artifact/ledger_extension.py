"""Recording an edit: the ledger of its base with one more entry."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forgetcli.artifact import ledger_keys, manifest
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.ledger_files import Book, Entry, Material, Origin, Place, delta_name
from forgetcli.artifact.patch import Change
from forgetcli.checkpoint.base import Base
from forgetcli.storage.safetensors import TensorSite

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.recipe import Recipe

WIDE = ("F32", "F64")  # weights beside which Δ is kept in float64


def extended(
    earlier: Ledger | None,
    base: Base,
    edit: Edit,
    changes: Sequence[Change],
    recipe: Recipe,
    parameters: Mapping[str, Any],
) -> Ledger | None:
    """A ledger with one more edit; the earlier one for an edit that changes nothing.

    Args:
        earlier: the ledger of `base`, see `previous_edits.PreviousEdits.fitting_ledger`.
        changes: those that the edit makes in `base`, see `patch.changes`.
    """
    if not changes:
        return earlier
    ledger = earlier or _begun(base)
    number = 1 + max((e.number for e in ledger.edits), default=0)
    tensors = dict(ledger.tensors)
    places = list(ledger.book.places)
    size = _record_changes(tensors, places, number, changes)
    tokens = {}
    for (component, parameter), keys in edit.keys.items():
        tensors |= ledger_keys.stored(number, component, parameter, keys)
        tokens[f"{component}:{parameter}"] = int(keys.counts.sum())
    entry = Entry(
        number=number,
        name=recipe.name,
        method=recipe.method,
        parameters=dict(parameters),
        recipe=recipe.raw.decode(),
        recipe_sha256=recipe.sha256,
        concepts=[(c.concept, c.target) for c in recipe.concepts],
        applied_to=base.digest,
        delta_rel=size,
        tokens=tokens,
        materials=[Material(**m) for m in edit.moments],
    )
    book = ledger.book.model_copy(update={"edits": (*ledger.edits, entry), "places": tuple(places)})
    return Ledger(book, base.folder, tensors)


def _begun(base: Base) -> Ledger:
    """The ledger of a base that has none: its names and its model card, no edit."""
    card = _base_card(base)
    origin = Origin(
        id=base.id,
        revision=base.revision,
        files=dict(base.files),
        card=None if card is None else hashlib.sha256(card.numpy().data).hexdigest(),
    )
    book = Book(base=origin, edits=(), places=())
    return Ledger(book, base.folder, {} if card is None else {"card": card})


def _record_changes(
    tensors: dict[str, TensorSite | Tensor],
    places: list[Place],
    number: int,
    changes: Sequence[Change],
) -> float:
    """Add Δ of an edit, and the base's tensors where no earlier edit has changed them.

    Returns:
        ‖Δ‖_F / ‖W‖_F over all changes.
    """
    change_square = weight_square = 0.0
    for change in changes:
        wide = any(site.dtype in WIDE for site in change.sites)
        exact_delta = change.delta
        delta = exact_delta.to(torch.float64 if wide else torch.float32)
        tensors[delta_name(number, change.component, change.parameter)] = delta
        change_square += float(delta.double().square().sum())
        weight_square += float((change.values - exact_delta).square().sum())
        for site, before in change.before.items():
            place = Place(
                component=change.component,
                parameter=change.parameter,
                file=site.file,
                key=site.key,
                third=site.third,
            )
            if place not in places:
                places.append(place)
                tensors[place.original] = before
    return math.sqrt(change_square / weight_square) if weight_square else 0.0


def _base_card(base: Base) -> Tensor | None:
    """The README.md of a diffusers folder; one beside a single file is not the model's."""
    path = base.folder / manifest.CARD
    return (
        None
        if base.file or not path.is_file()
        else torch.tensor(list(path.read_bytes()), dtype=torch.uint8)
    )
