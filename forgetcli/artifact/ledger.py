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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.artifact import manifest, manifest_schema
from forgetcli.artifact.ledger_files import (
    LEDGER,
    TENSORS,
    Book,
    Entry,
    Place,
    content,
    damaged,
    delta_name,
    edit_number,
    read,
    write,
)
from forgetcli.artifact.manifest import Manifest
from forgetcli.artifact.patch import Stored, encode, stored_as
from forgetcli.errors import EditError, ModelError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.files import inside
from forgetcli.storage.safetensors import TensorSite, WeightFile, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEDGER", "TENSORS", "Ledger", "dates", "load", "manifest_in"]


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
            name = delta_name(entry.number, place.component, place.parameter)
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

    def without(self, numbers: Iterable[int]) -> Ledger:
        """The ledger without these edits, and without the tensors that no other edit changed."""
        edits = tuple(e for e in self.edits if e.number not in set(numbers))
        left = {e.number for e in edits}
        places = tuple(
            p
            for p in self.book.places
            if any(delta_name(number, p.component, p.parameter) in self.tensors for number in left)
        )
        kept = {
            "card",
            *(p.original for p in places),
            *(name for name in self.tensors if edit_number(name) in left),
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


def _sites(folder: Path, places: Iterable[Place]) -> Iterator[tuple[Place, TensorSite | None]]:
    """Each place with the tensor that lies there; None where there is none."""
    weight_file = cache(partial(WeightFile, folder))
    for place in places:
        weights = weight_file(place.file)
        inside(folder, weights.path)
        site = weights.sites.get(place.key) if weights.path.is_file() else None
        fits = site is not None and manifest_schema.has_part(site, place.third)
        yield place, site.part(place.third) if site is not None and fits else None
