"""Whether the ledger fits the weights, the manifest and the recipes in it.

Digests alone do not show that: whoever changes the ledger can bring its digests up to date. All
that can be computed from its tensors is computed again here, without the base and without the
model. What cannot is listed in docs/verification.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import Problem, problem
from forgetcli.artifact.ledger import LEDGER, TENSORS, Ledger
from forgetcli.artifact.ledger_files import Entry, Place, content
from forgetcli.artifact.manifest import MANIFEST, Manifest
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.artifact.patch import round_to, stored_as
from forgetcli.errors import ForgetError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.files import open_regular
from forgetcli.storage.safetensors import TensorSite
from forgetcli.verification.finding import Finding
from forgetcli.verification.parameters import differing, is_ours, read_recipe

if TYPE_CHECKING:
    from torch import Tensor

SLACK = 1e-6  # relative: float64 sums in another order, Δ kept in float32
READ_BYTES = 4 << 20  # bytes of a file that are read at a time


def history(edited: EditedModel) -> Finding:
    """Whether the edits that the ledger lists are those that made the weights and the manifest."""
    try:
        ledger = edited.ledger
    except (ForgetError, OSError) as fault:
        return Finding([problem(LEDGER, f"{getattr(fault, 'message', fault)}")])
    if ledger is None:
        missing = "that the recorded edits give the weights: the folder has no ledger"
        return Finding(not_proved=[missing] if edited.manifest.edited else [])
    try:
        wrong = [*_against_manifest(edited.manifest, ledger)]
        for entry in ledger.edits:
            wrong += _entry(edited, ledger, entry)
        if wrong:  # figures of tensors are compared only where they are of the same edits
            return Finding([problem(LEDGER, what) for what in wrong])
        problems = [*_weights(edited, ledger)]
    except (ForgetError, OSError) as fault:
        what = f"cannot be compared with the weights: {getattr(fault, 'message', fault)}"
        return Finding([problem(LEDGER, what)])
    if problems:
        return Finding(problems)
    if len(ledger.edits) == 1:
        return Finding(proved=["the ledger's edit gives the weights, and without it the base's"])
    claim = f"the ledger's {len(ledger.edits)} edits give the weights, and without them the base's"
    return Finding(proved=[claim])


def values_before(ledger: Ledger, manifest: Manifest, place: Place) -> Tensor:
    """The values that a tensor had in the model that the last edit was made to, in its dtype."""
    if manifest.base_digest == ledger.book.base.digest:
        return ledger.original(place)
    return _rounded(ledger.without([ledger.edits[-1].number]), ledger, place)


def place_of(ledger: Ledger, tensor: EditedTensor) -> Place | None:
    """The ledger's place of a tensor that the manifest lists; None if it has none."""
    described = Place(
        component=tensor.component,
        parameter=tensor.parameter,
        file=tensor.file,
        key=tensor.key,
        third=tensor.third,
    )
    return described if described in ledger.book.places else None


def _rounded(rest: Ledger, ledger: Ledger, place: Place) -> Tensor:
    original = ledger.original(place)
    return round_to(rest.exact(place), original.dtype) if place in rest.book.places else original


# --- the ledger and the manifest


def _against_manifest(manifest: Manifest, ledger: Ledger) -> Iterator[str]:
    origin = ledger.book.base
    first, last = ledger.edits[0], ledger.edits[-1]
    if list(ledger.edits) != sorted(ledger.edits, key=lambda entry: entry.number):
        yield "the edits are not in their order"
    if first.number == 1 and first.applied_to != origin.digest:
        yield "its first edit was made to another model than the one that it names"
    weights = {place.file for place in ledger.book.places}
    for path, digest in sorted(origin.files.items()):
        if path not in weights and manifest.subjects.get(path) != digest:
            yield f"its digest of '{path}' is not that of the file"
    for path in sorted(weights - origin.files.keys()):
        yield f"'{path}' has edited tensors, but is no file of the model that it names"
    if not manifest.edited:  # the control, made to an edited model: the last edit is not its own
        return
    if manifest.base_digest not in (origin.digest, last.applied_to):
        yield f"its last edit was made to another model than the base in {MANIFEST}"
    if (last.method, last.parameters) != (manifest.method, manifest.parameters):
        yield f"method or parameters of its last edit are not those in {MANIFEST}"
    if last.recipe_sha256 != manifest.recipe_sha256:
        yield f"the recipe of its last edit is not the one in {MANIFEST}"
    materials = {material.name: material.sha256 for material in last.materials}
    if materials != manifest.materials or len(materials) != len(last.materials):
        yield f"the second moments of its last edit are not those in {MANIFEST}"
    whole = manifest.base_digest == origin.digest
    expected = {p for p in ledger.book.places if whole or _has_delta(ledger, last, p)}
    if {place_of(ledger, tensor) for tensor in manifest.edited} != expected:
        yield f"the tensors that it changes are not those in {MANIFEST}"
    if manifest.edits is not None and manifest.edits != [_listed(e) for e in ledger.edits]:
        yield f"its edits are not those in {MANIFEST}"


def _listed(entry: Entry) -> dict[str, object]:
    """An edit as `forget revert` lists it in the manifest."""
    return {
        "number": entry.number,
        "method": entry.method,
        "parameters": entry.parameters,
        "recipe": {"name": entry.name, "digest": {"sha256": entry.recipe_sha256}},
    }


def _has_delta(ledger: Ledger, entry: Entry, place: Place) -> bool:
    return f"edit.{entry.number}.delta:{place.component}:{place.parameter}" in ledger.tensors


# --- one edit


def _entry(edited: EditedModel, ledger: Ledger, entry: Entry) -> Iterator[str]:
    """What is wrong with the description of one edit."""
    name = f"edit {entry.number}"
    if hashlib.sha256(entry.recipe.encode()).hexdigest() != entry.recipe_sha256:
        yield f"the digest of {name}'s recipe is not that of the recipe"
        return
    try:
        recipe = read_recipe(edited, entry.recipe)
    except ForgetError as fault:
        if fault.code != "recipe.unknown-method":
            yield f"the recipe of {name} cannot be read: {fault.message}"
        recipe = None
    if recipe is not None:
        strict = is_ours(edited.manifest)
        wrong = differing(entry.method, entry.parameters, recipe, strict, LEDGER)
        yield from (f"{name}: {what}" for what in wrong)
        if [(c.concept, c.target) for c in recipe.concepts] != [*map(tuple, entry.concepts)]:
            yield f"the concepts of {name} are not those of its recipe"
    prefix = f"edit.{entry.number}.keys:"
    keys = [
        key
        for key in ledger.tensors
        if key.startswith(prefix) and f"{key}:counts" in ledger.tensors
    ]
    counts = {key.removeprefix(prefix): float(ledger.tensor(f"{key}:counts").sum()) for key in keys}
    if counts != entry.tokens:
        yield f"the tokens that {name} protects are not those of its keys"


# --- the weights


def _weights(edited: EditedModel, ledger: Ledger) -> Iterator[Problem]:
    wrong = [*ledger.differing(edited.folder)]
    for place in wrong:
        what = f"'{place.key}' in {place.file} is not what it says"
        yield problem(LEDGER, what)
    if wrong:
        return
    for tensor in edited.manifest.edited:
        fault = _tensor_problem(edited, ledger, tensor)
        if fault:
            yield problem(MANIFEST, f"'{tensor.key}': {fault}")
    for path in sorted({place.file for place in ledger.book.places}):
        if _restored_digest(edited.folder, ledger, path) != ledger.book.base.files[path]:
            yield problem(TENSORS, f"its tensors of the base do not give the base's {path}")
    numbers = [entry.number for entry in ledger.edits]
    for entry in ledger.edits:
        # The size of a change is relative to the weights that it was made to: without the edits
        # that were there, that cannot be computed.
        if set(range(1, entry.number)) <= set(numbers):
            size = _size(ledger, entry)
            if not math.isclose(size, entry.delta_rel, rel_tol=SLACK, abs_tol=1e-12):
                what = f"edit {entry.number} changes the weights by {size:.6g}"
                yield problem(LEDGER, f"{what}, not by {entry.delta_rel:.6g}")


def _tensor_problem(edited: EditedModel, ledger: Ledger, tensor: EditedTensor) -> str | None:
    place = place_of(ledger, tensor)
    if place is None:
        return "no edit of the ledger changes it"
    site = edited.site(tensor)
    stored = stored_as(
        site,
        values_before(ledger, edited.manifest, place),
        read_tensor(edited.folder, site),
        ledger.exact(place),
    )
    if stored.before != tensor.before:
        return "its digest in the base is not the one that the ledger gives"
    if not math.isclose(stored.error, tensor.error, rel_tol=SLACK, abs_tol=1e-12):
        return f"its rounding error is {stored.error:.6g} by the ledger, not {tensor.error:.6g}"
    return None


def _size(ledger: Ledger, entry: Entry) -> float:
    """‖Δ‖_F / ‖W‖_F of one edit, W as it was before: see `ledger.Entry.delta_rel`."""
    earlier = ledger.without([e.number for e in ledger.edits if e.number >= entry.number])
    change = weight = 0.0
    seen = set()
    for place in ledger.book.places:
        parameter = (place.component, place.parameter)
        if parameter in seen or not _has_delta(ledger, entry, place):
            continue
        seen.add(parameter)
        name = f"edit.{entry.number}.delta:{place.component}:{place.parameter}"
        change += float(ledger.tensor(name).double().square().sum())
        weight += float(_rounded(earlier, ledger, place).double().square().sum())
    return math.sqrt(change / weight) if weight else 0.0


def _restored_digest(folder: Path, ledger: Ledger, path: str) -> str:
    """SHA-256 of a file with the base's bytes in place of every edited tensor."""
    digest = hashlib.sha256()
    originals: list[tuple[TensorSite, Place]] = sorted(
        ((site, place) for place, site in ledger.sites(folder) if place.file == path and site),
        key=lambda pair: pair[0].start,
    )
    with open_regular(folder / path) as reader:
        for site, place in originals:
            while rest := site.start - reader.tell():
                data = reader.read(min(rest, READ_BYTES)) if rest > 0 else b""
                if not data:  # the tensors overlap, or the file became shorter
                    return ""
                digest.update(data)
            digest.update(content(ledger.folder, ledger.tensors[place.original]))
            reader.seek(site.end)
        while data := reader.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
