"""What was done to a model, edit by edit, kept in its folder so that later edits can hold it and
each can be taken out.

Two files, both forget's own: ``forget.ledger.json`` says what the edits were,
``forget.ledger.safetensors`` holds

    base:FILE:KEY                    each edited tensor's bytes in the original base, once; KEY:0,
                                     1, 2 for q, k, v in one tensor
    edit.N.delta:COMPONENT:NAME      Δ of edit N: float32 beside 16-bit weights, float64 beside
                                     wider ones
    edit.N.keys:COMPONENT:NAME       the concept prompts' keys that later edits hold, or their
                                     second moment if that is smaller
    card                             the base's README.md, if it had one: an edited model's own card
                                     takes its place

An edited tensor is always round(W + Σ Δ_i), W the original base's, summed in float64 in the order
of the edits: elementwise, so
the same bits on every machine. Taking an edit out is leaving its Δ out of the sum; with the last
one gone, the base's bytes are back.
Δ is kept whole and not as the factors R and A: a few prompts have more tokens than factors would
save, and a product's
last bits depend on the machine. Nothing here depends on the time of the run: dates are in the
manifest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.artifact import manifest
from forgetcli.artifact.ledger_files import (
    LEDGER,
    TENSORS,
    Book,
    Entry,
    Origin,
    Place,
    content,
    damaged,
    read,
    write,
)
from forgetcli.artifact.patch import Stored, changes, encode, stored_as
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ModelError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.safetensors import TensorSite, read_bytes, read_header

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.editing.edit import Edit, Keys
    from forgetcli.linalg import Moment
    from forgetcli.progress import Observer
    from forgetcli.recipe import Recipe

__all__ = ["LEDGER", "TENSORS", "Ledger", "dates", "extended", "held", "load", "materials"]

WIDE = ("F32", "F64")  # weights beside which Δ is kept in float64


@dataclass(frozen=True)
class Ledger:
    """The edits of a folder.

    Attributes:
        book: what ``forget.ledger.json`` says.
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

    def wanted(self, place: Place) -> Tensor:
        """W + Σ Δ_i, float64: what the place holds but for rounding."""
        total = self.original(place).double()
        for entry in self.edits:
            name = _delta(entry.number, place.component, place.parameter)
            if name in self.tensors:
                total = total + self.tensor(name).double()
        return total

    def values(self, site: TensorSite) -> Tensor:
        """`wanted` at a tensor's place on disk: what `patching.patch` asks for."""
        return self.wanted(
            next(
                p
                for p in self.book.places
                if (p.file, p.key, p.third) == (site.file, site.key, site.third)
            )
        )

    def held(self, component: str, parameter: str) -> Moment | None:
        """K_pK_pᵀ: the second moment of all edits' keys at a site."""
        names = [_keys(entry.number, component, parameter) for entry in self.edits]
        found = [_moment(self, name) for name in names if name in self.tensors]
        return sum(found[1:], found[0]) if found else None

    def without(self, numbers: Iterable[int]) -> Ledger:
        """The ledger with these edits taken out, and the tensors that no other edit changed."""
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
        """That the folder's tensors are, byte for byte, what the ledger says.

        Raises:
            ModelError: ledger.other-weights.
        """
        for place in self.book.places:
            site = _site(folder, place)
            if site is None or read_bytes(folder, site) != encode(self.wanted(place), site):
                raise ModelError(
                    "ledger.other-weights",
                    f"'{place.key}' in {folder / place.file} is not what {LEDGER} says",
                    "the weights were changed by something else: remove forget.* there to edit them as a new base",
                )

    def restore(self, staging: Path, rest: Ledger) -> dict[tuple[str, str], Stored]:
        """Give every tensor of this ledger the value that it has in `rest`: the base's own bytes,
        if nothing there changes it.
        """
        stored: dict[tuple[str, str], Stored] = {}
        for place in self.book.places:
            site, before = _site(staging, place), self.original(place)
            if site is None:
                raise damaged(
                    self.folder, f"it names '{place.key}' in {place.file}, which is not there"
                )
            wanted = rest.wanted(place) if place in rest.book.places else before.double()
            with open(staging / place.file, "r+b") as writer:
                writer.seek(site.start)
                writer.write(
                    encode(wanted, site)
                    if place in rest.book.places
                    else content(self.folder, before)
                )
            if place in rest.book.places:
                part, key = (
                    stored_as(site, before, read_tensor(staging, site), wanted),
                    (place.component, place.parameter),
                )
                stored[key] = (
                    replace(stored[key], also=(*stored[key].also, part)) if key in stored else part
                )
        return stored

    def card(self) -> bytes | None:
        """The original base's README.md; None if it had none."""
        return content(self.folder, self.tensors["card"]) if "card" in self.tensors else None

    def write(self, staging: Path) -> None:
        """Both files; none for a ledger without edits."""
        if self.edits:
            write(staging, self.book, self.tensors, self.folder)


def load(folder: Path) -> Ledger | None:
    """The ledger of an edited folder; None if it has none: a base, or edited by the control.

    Raises:
        ModelError: ledger.damaged: a file is missing, cut off, changed since it was written, or not
            of this shape.
    """
    found = read(folder)
    if found is None:
        return None
    ledger = Ledger(found[0], folder, found[1])
    card = ledger.card()
    if (None if card is None else hashlib.sha256(card).hexdigest()) != ledger.book.base.card:
        raise damaged(folder, f"its copy of the base's {manifest.CARD} is not the base's")
    return ledger


def of(base: Base) -> Ledger | None:
    """The ledger that goes with a model: its folder's, but for a single file that lies in the
    folder of another model.
    """
    found = load(base.folder)
    return found if found and base.file in (None, *found.book.base.files) else None


def extended(
    base: Base, edit: Edit, recipe: Recipe, parameters: Mapping[str, Any]
) -> Ledger | None:
    """The base's ledger with one more edit; the base's own for an edit that changes nothing.

    Raises:
        ModelError: the base's ledger is damaged, or does not fit its weights.
        EditError: as `patching.patch`.
    """
    import torch

    earlier = of(base)
    if earlier:
        earlier.check_fits(base.folder)
    elif edit.weights:
        card = _card(base)
        origin = Origin(
            id=base.id,
            revision=base.revision,
            files=dict(base.files),
            card=None if card is None else hashlib.sha256(card.numpy()).hexdigest(),
        )
        earlier = Ledger(
            Book(base=origin, edits=(), places=()),
            base.folder,
            {} if card is None else {"card": card},
        )
    if not edit.weights:
        return earlier
    number = 1 + max((e.number for e in earlier.edits), default=0)
    tensors, places, squares = dict(earlier.tensors), list(earlier.book.places), [0.0, 0.0]
    for change in changes(base, edit.weights):
        component, parameter = change.key
        wide = any(site.dtype in WIDE for site in change.sites)
        delta = change.delta.to(torch.float64 if wide else torch.float32)
        tensors[_delta(number, component, parameter)] = delta
        squares[0] += float(delta.double().square().sum())
        squares[1] += float((change.wanted - change.delta).square().sum())
        for site in change.sites:
            place = Place(
                component=component,
                parameter=parameter,
                file=site.file,
                key=site.key,
                third=site.third,
            )
            if place not in places:
                places.append(place)
                tensors[place.original] = read_tensor(base.folder, site)
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
        delta_rel=math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0,
        tokens=tokens,
        materials=[dict(m) for m in edit.moments],
    )
    book = earlier.book.model_copy(
        update={"edits": (*earlier.edits, entry), "places": tuple(places)}
    )
    return Ledger(book, base.folder, tensors)


def dates(folder: Path, ledger: Ledger | None, now: str = "") -> dict[str, str]:
    """When each edit was made, by its number: as the manifest of `folder` has it, `now` for one
    that is not there.
    """
    known = (
        manifest.load(folder).run_details.get("metadata", {}).get("edits")
        if (folder / manifest.MANIFEST).is_file()
        else {}
    )
    known = known if isinstance(known, dict) else {}
    return {str(e.number): known.get(str(e.number), now) for e in ledger.edits} if ledger else {}


def held(base: Base, sites, observer: Observer) -> dict[str, Moment]:
    """K_pK_pᵀ of the base's earlier edits by site name, where the ledger has keys for the site."""
    ledger = of(base)
    if ledger is None:
        return {}
    found = {site.name: ledger.held(site.component, site.parameter) for site in sites}
    free = [
        str(e.number)
        for e in ledger.edits
        if not any(f"{s.component}:{s.parameter}" in e.tokens for s in sites)
    ]
    if free:
        observer.note(
            f"edits that are not held, for want of their keys at these sites: {', '.join(free)}"
        )
    return {name: moment for name, moment in found.items() if moment}


def materials(moments: Mapping[str, Moment]) -> tuple[dict, ...]:
    """For the manifest: {"name", "sha256"} of each K_pK_pᵀ."""
    return tuple(
        {
            "name": f"kp/{name}",
            "sha256": hashlib.sha256(moment.matrix.contiguous().numpy()).hexdigest(),
        }
        for name, moment in sorted(moments.items())
    )


def _kept(number: int, component: str, parameter: str, keys: Keys) -> dict[str, Tensor]:
    """Keys as they are stored.

    d × n float32 numbers (what the model runs in, so nothing is lost) and how often each occurs;
    or, if there are more keys than
    dimensions, the lower half of the float64 second moment, which then is smaller.
    """
    import torch

    from forgetcli.linalg import Moment

    name, (d, n) = _keys(number, component, parameter), keys.columns.shape
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

    stored, counts = ledger.tensor(name), ledger.tensor(f"{name}:counts")
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


def _site(folder: Path, place: Place) -> TensorSite | None:
    found = (
        read_header(folder, place.file).get(place.key) if (folder / place.file).is_file() else None
    )
    return found and found.part(place.third)


def _card(base: Base) -> Tensor | None:
    """A folder's README.md; one that lies beside a single file is not the model's."""
    import torch

    path = base.folder / manifest.CARD
    return (
        None
        if base.file or not path.is_file()
        else torch.tensor(list(path.read_bytes()), dtype=torch.uint8)
    )
