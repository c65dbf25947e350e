"""A copy of a base with exactly the edited tensors' bytes replaced.

Weights are never saved by their library again. Current transformers writes CLIP text encoders
without the ``text_model.`` prefix, which older versions and other programs cannot read (they
silently start from random weights). A patched file can also be compared with its base byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.artifact.manifest import CARD
from forgetcli.checkpoint.base import Base
from forgetcli.errors import EditError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage.atomic import sync_file
from forgetcli.storage.copying import Copying, can_clone, put, refuse_lack_of_room
from forgetcli.storage.safetensors import TensorSite, editable_dtype

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """One edited tensor as it lies on disk.

    Attributes:
        sha256: of its bytes, read back.
        error: ‖stored − exact‖_F / ‖exact − base‖_F, float64: the fraction of the edit that
            rounding to the file's dtype removed.
        also: the same tensor in other forms of the weights (``.fp16.``), edited by the same change.
        before: SHA-256 of its bytes in the base.
    """

    site: TensorSite
    sha256: str
    error: float
    also: tuple[Stored, ...] = ()
    before: str = ""


@dataclass(frozen=True, eq=False)
class Change:
    """A new weight, and the values that it replaces.

    The base's bytes are read once, for the ledger, the patch and the digests alike.

    Attributes:
        component, parameter: the parameter's names in memory.
        weight: the new weight, as the edit gave it.
        before: the base's values at every place that holds the parameter, in the file's dtype; the
            place that loaders read by default is the first.
    """

    component: str
    parameter: str
    weight: Tensor
    before: Mapping[TensorSite, Tensor]

    @property
    def sites(self) -> tuple[TensorSite, ...]:
        """Every place that holds the parameter, the one that loaders read by default first."""
        return tuple(self.before)

    @property
    def values(self) -> Tensor:
        """The new weight, float64, on the CPU."""
        return self.weight.detach().cpu().double()

    @property
    def delta(self) -> Tensor:
        """`values` − the base's at the first place, float64."""
        return self.values - self.before[self.sites[0]].double()


@dataclass(frozen=True)
class _Overwrite:
    """The new content of one place: float64 values, and their bytes in the file's dtype."""

    site: TensorSite
    values: Tensor
    data: bytes


def sources(base: Base) -> list[Path]:
    """Every file that a copy of the base is made from."""
    return [base.folder / path for path in base.files] + list(base.beside.values())


def check_room(base: Base, staging: Path, output: Path, how: Copying) -> None:
    """Check, before the edit, that the output's disk has room for the copy, as far as is known.

    Files that will be shared (reflinks, hard links) are not counted.

    Raises:
        OutputError: output.disk-full, with both figures.
    """
    files = sources(base)
    shared = how is Copying.LINK or (
        how is Copying.REFLINK and files and can_clone(files[0], staging)
    )
    refuse_lack_of_room([] if shared else files, staging, output)


def patch(
    base: Base,
    staging: Path,
    weights: Mapping[tuple[str, str], Tensor],
    how: Copying = Copying.REFLINK,
    values: Callable[[TensorSite], Tensor] | None = None,
) -> dict[tuple[str, str], Stored]:
    """Copy the base into `staging` and overwrite exactly these tensors' bytes.

    Args:
        weights: (component, parameter name in memory) → the new weight, float32 or float64, the
            parameter's shape.
        staging, how, values: see `write`.
    Raises:
        EditError, ModelError, OSError: see `changes` and `write`. Nothing is copied if a weight
            cannot be used.
    """
    return write(base, staging, changes(base, weights), how, values)


def write(
    base: Base,
    staging: Path,
    changes: Sequence[Change],
    how: Copying = Copying.REFLINK,
    values: Callable[[TensorSite], Tensor] | None = None,
) -> dict[tuple[str, str], Stored]:
    """Copy the base into `staging` and make these changes in the copy.

    Values are rounded to nearest in the dtype that the file has.

    Args:
        staging: an existing folder; see `atomic.publishing`.
        how: how an untouched file gets into the copy. An edited one is never a link.
        values: the values of a place before rounding, if they are another sum than its own values
            and this change.
    Returns:
        what now lies on disk, read back after fsync.
    Raises:
        EditError: edit.overflow: too large for the file's dtype. Nothing is copied then.
        OSError: the disk is full, or refuses to write; `atomic.publishing` explains it to the user.
    """
    plan = {change: _overwrites(change, values) for change in changes}
    copy_with(
        base,
        staging,
        ((part.site, part.data) for parts in plan.values() for part in parts),
        {part.site.file for parts in plan.values() for part in parts},
        how,
    )
    stored = {}
    for change, parts in plan.items():
        first, *others = (
            stored_as(
                part.site, change.before[part.site], read_tensor(staging, part.site), part.values
            )
            for part in parts
        )
        stored[change.component, change.parameter] = replace(first, also=tuple(others))
    return stored


def copy_with(
    base: Base,
    staging: Path,
    changes: Iterable[tuple[TensorSite, bytes]],
    touched: Collection[str],
    how: Copying = Copying.REFLINK,
) -> None:
    """Copy the base into `staging` and overwrite these tensors' bytes; changed files are synced.

    Args:
        touched: the files that the changes lie in: they are never links.
    Raises:
        OSError: the disk is full, or refuses.
    """
    for path, source in {
        **{path: base.folder / path for path in base.files},
        **base.beside,
    }.items():
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Writing through a hard link would change the base. The card may be replaced as well.
        written = path in touched or path == CARD
        put(source, target, Copying.REFLINK if written and how is Copying.LINK else how)
    for file, edits in groupby(changes, key=lambda change: change[0].file):
        with open(staging / file, "r+b") as writer:
            # One at a time: the bytes may be read only when they are needed.
            for site, data in edits:
                writer.seek(site.start)
                writer.write(data)
        sync_file(staging / file)


def changes(base: Base, weights: Mapping[tuple[str, str], Tensor]) -> tuple[Change, ...]:
    """The changes that new weights make in the base, checked.

    Raises:
        EditError: edit.not-finite, edit.shape, edit.twice.
        ModelError: a parameter that the base does not have, or a base that cannot be read.
    """
    found = []
    taken: set[TensorSite] = set()
    for (component, name), weight in weights.items():
        sites = base.locate(component, name)
        if tuple(weight.shape) != sites[0].shape:
            raise EditError(
                "edit.shape",
                f"{component} {name} has shape {sites[0].shape}, not {tuple(weight.shape)}",
            )
        if not weight.isfinite().all():
            raise EditError(
                "edit.not-finite",
                f"the edit of {component} {name} gave values that are not finite",
                "raise lambda, or lower the refinement's step size",
            )
        if not taken.isdisjoint(sites):
            raise EditError("edit.twice", f"{component} {name} is edited under two names")
        taken.update(sites)
        before = {site: read_tensor(base.folder, site) for site in sites}
        found.append(Change(component, name, weight, before))
    return tuple(found)


def _overwrites(change: Change, values: Callable[[TensorSite], Tensor] | None) -> list[_Overwrite]:
    """The new content of every place that holds the parameter."""
    parts = []
    for site, before in change.before.items():
        if values:
            exact = values(site)
        elif site is change.sites[0]:
            exact = change.values
        else:
            # Another form of the weights (fp16, non-EMA) has other values: it gets the same change,
            # not the same result.
            exact = before.double() + change.delta
        parts.append(_Overwrite(site, exact, encode(exact, site)))
    return parts


def encode(values: Tensor, site: TensorSite) -> bytes:
    """The bytes of float64 values in the site's dtype, rounded to nearest, ties to even.

    Raises:
        EditError: edit.overflow: a value is too large for the dtype.
    """
    import torch

    rounded = round_to(values, getattr(torch, editable_dtype(site)))
    if not rounded.isfinite().all():
        largest = float(values.abs().max())
        raise EditError(
            "edit.overflow",
            f"the edit of '{site.key}' gave values up to {largest:.3g}, too large for {site.dtype}",
            "raise lambda, or edit the model in float32",
        )
    return rounded.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_to(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → `dtype`, rounded once.

    torch converts to 16 bits through float32 and rounds twice: 1 + 2⁻¹¹ + 2⁻⁴⁰ becomes 1 in
    float16, though 1 + 2⁻¹⁰ is nearer. So the step to float32 rounds to odd here (towards zero,
    then the last bit is set if anything was lost), which prevents new ties.
    """
    import torch

    if dtype not in (torch.float16, torch.bfloat16):
        return values.to(dtype)
    single = values.float()
    bits = single.view(torch.int32)  # sign and magnitude: minus one is one step to zero
    bits = bits - (single.double().abs() > values.abs()).int()
    lost = bits.view(torch.float32).double() != values
    return (bits | lost.int()).view(torch.float32).to(dtype)


def stored_as(site: TensorSite, before: Tensor, after: Tensor, exact: Tensor) -> Stored:
    """The record of one place.

    Args:
        before: the base's values.
        after: the values on disk now.
        exact: the values before rounding, float64.
    """
    change = float((exact - before.double()).norm())
    missed = float((after.double() - exact).norm())
    error = missed / change if change else float(missed > 0)
    return Stored(site, _sha256(after), error, before=_sha256(before))


def _sha256(tensor: Tensor) -> str:
    import torch

    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return hashlib.sha256(data).hexdigest()
