"""The record of a model's edits, kept in its folder: later edits can protect earlier ones, and each
edit can be taken out.

It consists of two files. ``forget.ledger.json`` describes the edits;
``forget.ledger.safetensors`` holds

    base:FILE:KEY                    each edited tensor's bytes in the original base, once; KEY:0,
                                     1, 2 for q, k, v in one tensor
    edit.N.delta:COMPONENT:NAME      Δ of edit N: float32 beside 16-bit weights, float64 beside
                                     wider ones
    edit.N.keys:COMPONENT:NAME       the concept prompts' keys that later edits protect, or their
                                     second moment if that is smaller
    card                             the base's README.md, if it had one: an edited model's own card
                                     takes its place

An edited tensor is always round(W + Σ Δ_i), where W is the original base's tensor. The sum is taken
in float64 in the order of the edits. It is elementwise, so every machine gives the same bits. To
take an edit out, its Δ is left out of the sum; without any edit the base's bytes result.

Δ is stored in full and not as the factors R and A: a few prompts already have more tokens than the
factors would save, and the last bits of a product depend on the machine. The ledger does not depend
on the time of the run: dates are in the manifest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.artifact import manifest
from forgetcli.artifact.ledger_files import (
    LEDGER,
    TENSORS,
    Book,
    Entry,
    Material,
    Origin,
    Place,
    content,
    damaged,
    read,
    write,
)
from forgetcli.artifact.manifest import Manifest
from forgetcli.artifact.patch import Change, Stored, encode, stored_as
from forgetcli.checkpoint.base import Base
from forgetcli.errors import EditError, ModelError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.files import inside
from forgetcli.storage.safetensors import TensorSite, WeightFile, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.editing.edit import Edit, Keys
    from forgetcli.linalg import Moment
    from forgetcli.models.base import Site
    from forgetcli.progress import Observer
    from forgetcli.recipe import Recipe

__all__ = [
    "LEDGER",
    "TENSORS",
    "Ledger",
    "PreviousEdits",
    "dates",
    "extended",
    "load",
]

WIDE = ("F32", "F64")  # weights beside which Δ is kept in float64


@dataclass(frozen=True)
class Ledger:
    """The edits of a folder.

    Attributes:
        book: the content of ``forget.ledger.json``.
        folder: where the tensors lie that are on disk.
        tensors: by name; those of an edit that is being made are in memory.
    """

    book: Book
    folder: Path
    tensors: Mapping[str, TensorSite | Tensor]

    @property
    def edits(self) -> tuple[Entry, ...]:
        return self.book.edits

    def tensor(self, name: str) -> Tensor:
        found = self.tensors[name]
        return read_tensor(self.folder, found) if isinstance(found, TensorSite) else found

    def original(self, place: Place) -> Tensor:
        """The original base's values at a place, in the file's dtype."""
        return self.tensor(place.original)

    def exact(self, place: Place) -> Tensor:
        """W + Σ Δ_i, float64: the values of a place before they are rounded."""
        total = self.original(place).double()
        for entry in self.edits:
            name = _delta(entry.number, place.component, place.parameter)
            if name in self.tensors:
                total = total + self.tensor(name).double()
        return total

    def values(self, site: TensorSite) -> Tensor:
        """`exact` at a tensor's place on disk, for `patch.write`."""
        return self.exact(
            next(
                p
                for p in self.book.places
                if (p.file, p.key, p.third) == (site.file, site.key, site.third)
            )
        )

    def held(self, component: str, parameter: str) -> Moment | None:
        """K_pK_pᵀ: the second moment of all edits' keys at a layer; None without keys there."""
        names = [_keys(entry.number, component, parameter) for entry in self.edits]
        found = [_moment(self, name) for name in names if name in self.tensors]
        return sum(found[1:], found[0]) if found else None

    def without(self, numbers: Iterable[int]) -> Ledger:
        """The ledger without these edits, and without the tensors that no other edit changed."""
        edits = tuple(e for e in self.edits if e.number not in set(numbers))
        left = {e.number for e in edits}
        places = tuple(
            p
            for p in self.book.places
            if any(_delta(number, p.component, p.parameter) in self.tensors for number in left)
        )
        kept = {
            "card",
            *(p.original for p in places),
            *(name for name in self.tensors if _number(name) in left),
        }
        return replace(
            self,
            book=self.book.model_copy(update={"edits": edits, "places": places}),
            tensors={name: tensor for name, tensor in self.tensors.items() if name in kept},
        )

    def check_fits(self, folder: Path) -> None:
        """Check that the folder's tensors are, byte for byte, those of the ledger.

        Raises:
            ModelError: ledger.other-weights.
        """
        for place in self.differing(folder):
            raise ModelError(
                "ledger.other-weights",
                f"'{place.key}' in {folder / place.file} is not what {LEDGER} says",
                "the weights were changed by something else: "
                "remove forget.* there to edit them as a new base",
            )

    def sites(self, folder: Path) -> Iterator[tuple[Place, TensorSite | None]]:
        """Each place with the tensor that lies there in `folder`; None where there is none."""
        return _sites(folder, self.book.places)

    def differing(self, folder: Path) -> Iterator[Place]:
        """The places at which the folder's tensors are not, byte for byte, those of the ledger."""
        for place, site in self.sites(folder):
            if site is None or not self._is_stored(place, folder, site):
                yield place

    def _is_stored(self, place: Place, folder: Path, site: TensorSite) -> bool:
        """Whether a tensor on disk is that of a place. Its shape and dtype are compared first:
        nothing is computed with tensors of other shapes.
        """
        if not self._has_form(place, site):
            return False
        try:
            return read_bytes(folder, site) == encode(self.exact(place), site)
        except EditError:  # the sum is not finite, and no edit ever wrote such weights
            return False

    def _has_form(self, place: Place, site: TensorSite) -> bool:
        found = self.tensors[place.original]
        return not isinstance(found, TensorSite) or (
            (found.shape, found.dtype) == (site.shape, site.dtype)
        )

    def restore(self, staging: Path, rest: Ledger) -> dict[tuple[str, str], Stored]:
        """Write every tensor of this ledger with its value in `rest`: the base's bytes, if no edit
        there changes it.
        """
        stored: dict[tuple[str, str], Stored] = {}
        for place, site in _sites(staging, self.book.places):
            if site is None or not self._has_form(place, site):
                raise damaged(
                    self.folder, f"it names '{place.key}' in {place.file}, which is not there"
                )
            before = self.original(place)
            edited = place in rest.book.places
            exact = rest.exact(place) if edited else before.double()
            data = encode(exact, site) if edited else content(self.folder, before)
            with open(staging / place.file, "r+b") as writer:
                writer.seek(site.start)
                writer.write(data)
            if edited:
                part = stored_as(site, before, read_tensor(staging, site), exact)
                key = (place.component, place.parameter)
                first = stored.get(key)
                stored[key] = replace(first, also=(*first.also, part)) if first else part
        return stored

    def card(self) -> bytes | None:
        """The original base's README.md; None if it had none."""
        return content(self.folder, self.tensors["card"]) if "card" in self.tensors else None

    def write(self, staging: Path) -> None:
        """Write both files; none for a ledger without edits."""
        if self.edits:
            write(staging, self.book, self.tensors, self.folder)


def load(folder: Path, made: Manifest | None = None) -> Ledger | None:
    """The ledger of an edited folder; None if it has none: a base, or edited by the control.

    Args:
        made: the folder's manifest; by default it is read, if there is one.
    Raises:
        ModelError: ledger.damaged: a file is missing, cut off, changed since it was written, or not
            of this shape; model.manifest.
    """
    found = read(folder, made or manifest_in(folder))
    if found is None:
        return None
    ledger = Ledger(found[0], folder, found[1])
    card = ledger.card()
    if (None if card is None else hashlib.sha256(card).hexdigest()) != ledger.book.base.card:
        raise damaged(folder, f"its copy of the base's {manifest.CARD} is not the base's")
    return ledger


@dataclass(frozen=True)
class PreviousEdits:
    """The edits that a base model holds already; manifest and ledger are read when they are first
    asked for, and kept.
    """

    base: Base

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest of the base's folder; None if forget did not make it.

        Raises:
            ModelError: model.manifest: it is damaged.
        """
        return manifest_in(self.base.folder)

    @cached_property
    def ledger(self) -> Ledger | None:
        """The ledger that goes with the base; None if it has none.

        A single file may lie in the folder of another model: that model's ledger is not its own.

        Raises:
            ModelError: ledger.damaged; model.manifest.
        """
        found = load(self.base.folder, self.manifest)
        return found if found and self.base.file in (None, *found.book.base.files) else None

    def fitting_ledger(self) -> Ledger | None:
        """The ledger, checked against the base's weights.

        Raises:
            ModelError: ledger.other-weights; those of `ledger`.
        """
        if self.ledger:
            self.ledger.check_fits(self.base.folder)
        return self.ledger

    def held(self, sites: Sequence[Site], observer: Observer) -> dict[str, Moment]:
        """K_pK_pᵀ of the edits by site name, where the ledger has keys for the site.

        Raises:
            ModelError: those of `ledger`.
        """
        ledger = self.ledger
        if ledger is None:
            return {}
        moments = {site.name: ledger.held(site.component, site.parameter) for site in sites}
        keys = {f"{site.component}:{site.parameter}" for site in sites}
        unprotected = [str(e.number) for e in ledger.edits if keys.isdisjoint(e.tokens)]
        if unprotected:
            observer.note(_unprotected_note(unprotected))
        return {name: moment for name, moment in moments.items() if moment}


def _unprotected_note(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        subject = f"edit {numbers[0]} is"
        them = "it"
    else:
        subject = f"edits {', '.join(numbers[:-1])} and {numbers[-1]} are"
        them = "them"
    return f"{subject} not protected: the ledger has no keys for {them} at these layers"


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
        earlier: the ledger of `base`, see `PreviousEdits.fitting_ledger`.
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
        tensors |= _kept(number, component, parameter, keys)
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
    card = _card(base)
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
    import torch

    change_square = weight_square = 0.0
    for change in changes:
        wide = any(site.dtype in WIDE for site in change.sites)
        exact_delta = change.delta
        delta = exact_delta.to(torch.float64 if wide else torch.float32)
        tensors[_delta(number, change.component, change.parameter)] = delta
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


def dates(made: Manifest | None, ledger: Ledger | None, now: str = "") -> dict[str, str]:
    """The date of each edit, by its number: from a manifest; `now` for an edit that it lacks."""
    known = made.run_details.get("metadata", {}).get("edits") if made else {}
    known = known if isinstance(known, dict) else {}
    numbers = [str(entry.number) for entry in ledger.edits] if ledger else []
    return {number: str(known.get(number, now)) for number in numbers}


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest of a folder that need not be an edited one.

    Raises:
        ModelError: model.manifest: it is damaged.
    """
    return manifest.load(folder) if (folder / manifest.MANIFEST).is_file() else None


def _kept(number: int, component: str, parameter: str, keys: Keys) -> dict[str, Tensor]:
    """The tensors in which keys are stored.

    These are d × n float32 numbers (the model's own precision, so nothing is lost) and how often
    each key occurs. If there are more keys than dimensions, the lower half of the float64 second
    moment is smaller and is stored instead.
    """
    import torch

    from forgetcli.linalg import Moment

    name = _keys(number, component, parameter)
    d, n = keys.columns.shape
    single = keys.columns.float()
    if n <= d and torch.equal(single.double(), keys.columns.double()):
        return {name: single, f"{name}:counts": keys.counts.double()}
    moment = Moment.of(keys.columns, keys.counts)
    return {
        name: moment.matrix[tuple(torch.tril_indices(d, d))],
        f"{name}:counts": torch.tensor([moment.tokens], dtype=torch.float64),
    }


def _moment(ledger: Ledger, name: str) -> Moment:
    import torch

    from forgetcli.linalg import Moment

    stored = ledger.tensor(name)
    counts = ledger.tensor(f"{name}:counts")
    if stored.ndim == 2:
        return Moment.of(stored, counts)
    d = (math.isqrt(8 * len(stored) + 1) - 1) // 2
    half = torch.zeros(d, d, dtype=torch.float64)
    half[tuple(torch.tril_indices(d, d))] = stored
    return Moment(half + half.tril(-1).T, int(counts))


def _delta(number: int, component: str, parameter: str) -> str:
    return f"edit.{number}.delta:{component}:{parameter}"


def _keys(number: int, component: str, parameter: str) -> str:
    return f"edit.{number}.keys:{component}:{parameter}"


def _number(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("edit.") else None


def _sites(folder: Path, places: Iterable[Place]) -> Iterator[tuple[Place, TensorSite | None]]:
    """Each place with the tensor that lies there; None where there is none."""
    weight_file = cache(partial(WeightFile, folder))
    for place in places:
        weights = weight_file(place.file)
        inside(folder, weights.path)
        site = weights.sites.get(place.key) if weights.path.is_file() else None
        fits = site is not None and manifest.has_part(site, place.third)
        yield place, site.part(place.third) if site is not None and fits else None


def _card(base: Base) -> Tensor | None:
    """The README.md of a diffusers folder; one beside a single file is not the model's."""
    import torch

    path = base.folder / manifest.CARD
    return (
        None
        if base.file or not path.is_file()
        else torch.tensor(list(path.read_bytes()), dtype=torch.uint8)
    )
