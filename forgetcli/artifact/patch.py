"""A copy of a base with exactly the edited tensors' bytes replaced.

Weights are never saved anew. Current transformers writes CLIP text encoders without the
``text_model.`` prefix, which
older versions and other programs cannot read (they silently start from random weights); and a
patched file can be
compared with its base byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.artifact.manifest import CARD
from forgetcli.checkpoint.base import Base
from forgetcli.errors import EditError
from forgetcli.storage.atomic import sync_file
from forgetcli.storage.copying import Copying, can_clone, put, refuse_lack_of_room
from forgetcli.storage.safetensors import TensorSite, editable_dtype, read_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """One edited tensor as it lies on disk.

    Attributes:
        sha256: of its bytes, read back.
        error: ‖stored − wanted‖_F / ‖wanted − base‖_F, float64: the share of the edit that the
            file's dtype swallowed.
        also: the same tensor in other forms of the weights (``.fp16.``), edited by the same change.
        before: SHA-256 of its bytes in the base.
    """

    site: TensorSite
    sha256: str
    error: float
    also: tuple[Stored, ...] = ()
    before: str = ""


@dataclass(frozen=True)
class Change:
    """What a new weight changes.

    Attributes:
        key: (component, parameter).
        sites: every place that holds the parameter, the one that loaders read first.
        wanted: the new weight, float64. delta: wanted − the first place's values.
    """

    key: tuple[str, str]
    sites: tuple[TensorSite, ...]
    wanted: Tensor
    delta: Tensor


def sources(base: Base) -> list[Path]:
    """Every file that a copy of the base is made from."""
    return [base.folder / path for path in base.files] + list(base.beside.values())


def check_room(base: Base, staging: Path, output: Path, how: Copying) -> None:
    """Before the work: whether the output's disk has room for the copy that `patch` will make, as
    far as that is known.

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
        staging: an existing folder; see `store.publishing`.
        how: what an untouched file becomes; an edited one is never a link.
        weights: (component, parameter name in memory) → the new weight, float32 or float64, the
            parameter's shape. It
            is rounded to nearest in the dtype that the file has.
        values: what a place shall hold before rounding, if another sum than its own values and this
            edit's change.
    Returns:
        what now lies on disk, read back after fsync.
    Raises:
        EditError: edit.not-finite, edit.overflow (too large for the file's dtype), edit.shape,
            edit.twice. Nothing is
            copied then.
        ModelError: a parameter that the base does not have, or a base that cannot be read.
        OSError: the disk is full, or refuses; `store.publishing` puts it in the user's words.
    """
    plans = _plan(base, weights, values)
    touched = {site.file for parts in plans.values() for site, _, _ in parts}
    copy_with(
        base,
        staging,
        ((site, data) for parts in plans.values() for site, _, data in parts),
        touched,
        how,
    )
    stored = {}
    for key, parts in plans.items():
        first, *others = (_read_back(base, staging, site, wanted) for site, wanted, _ in parts)
        stored[key] = replace(first, also=tuple(others))
    return stored


def copy_with(
    base: Base,
    staging: Path,
    changes: Iterable[tuple[TensorSite, bytes]],
    touched: Collection[str],
    how: Copying = Copying.REFLINK,
) -> None:
    """Copy the base into `staging`, with these tensors' bytes in place of its own; what was
    overwritten is synced.

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
        own = (
            path in touched or path == CARD
        )  # the card may be written anew: through a link, the base's too
        put(source, target, Copying.REFLINK if own and how is Copying.LINK else how)
    for file, edits in groupby(changes, key=lambda change: change[0].file):
        with open(staging / file, "r+b") as writer:
            for site, data in edits:  # one at a time: they may be read as they are asked for
                writer.seek(site.start)
                writer.write(data)
        sync_file(staging / file)


def changes(base: Base, weights: Mapping[tuple[str, str], Tensor]) -> Iterator[Change]:
    """What new weights change in the base, one after the other, checked.

    Raises:
        EditError, ModelError: as `patch`.
    """
    taken: set[TensorSite] = set()
    for (component, name), weight in weights.items():
        sites = base.locate(component, name)
        wanted = weight.detach().cpu().double()
        if tuple(wanted.shape) != sites[0].shape:
            raise EditError(
                "edit.shape",
                f"{component} {name} has shape {sites[0].shape}, not {tuple(wanted.shape)}",
            )
        if not wanted.isfinite().all():
            raise EditError(
                "edit.not-finite",
                f"the edit of {component} {name} gave values that are not finite",
                "raise lambda, or lower the refinement's step size",
            )
        if not taken.isdisjoint(sites):
            raise EditError("edit.twice", f"{component} {name} is edited under two names")
        taken.update(sites)
        yield Change(
            (component, name),
            tuple(sites),
            wanted,
            wanted - read_tensor(base.folder, sites[0]).double(),
        )


def _plan(
    base: Base,
    weights: Mapping[tuple[str, str], Tensor],
    values: Callable[[TensorSite], Tensor] | None,
) -> dict[tuple[str, str], list[tuple[TensorSite, Tensor, bytes]]]:
    """Per parameter, for each place that holds it: the site, the wanted values (float64) and their
    bytes.
    """
    plans = {}
    for change in changes(base, weights):
        parts = []
        for site in change.sites:
            if values:
                here = values(site)
            # Another form of the weights (fp16, non-EMA) has other values: it gets the same change,
            # not result.
            else:
                here = (
                    change.wanted
                    if site is change.sites[0]
                    else read_tensor(base.folder, site).double() + change.delta
                )
            parts.append((site, here, encode(here, site)))
        plans[change.key] = parts
    return plans


def encode(wanted: Tensor, site: TensorSite) -> bytes:
    """float64 values → the bytes of the site's dtype, rounded to nearest, ties to even."""
    import torch

    rounded = round_to(wanted, getattr(torch, editable_dtype(site)))
    if not rounded.isfinite().all():
        largest = float(wanted.abs().max())
        raise EditError(
            "edit.overflow",
            f"the edit of '{site.key}' gave values up to {largest:.3g}, too large for {site.dtype}",
            "raise lambda, or edit the model in float32",
        )
    return rounded.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_to(values: Tensor, dtype) -> Tensor:
    """float64 → `dtype`, rounded once.

    torch goes to 16 bits by way of float32 and rounds twice: 1 + 2⁻¹¹ + 2⁻⁴⁰ becomes 1 in float16,
    though 1 + 2⁻¹⁰ is
    nearer. So the step to float32 rounds to odd here (towards zero, then the last bit set if
    anything was lost), which
    keeps ties from arising.
    """
    import torch

    if dtype not in (torch.float16, torch.bfloat16):
        return values.to(dtype)
    single = values.float()
    bits = single.view(torch.int32)  # sign and magnitude: minus one is one step to zero
    bits = bits - (single.double().abs() > values.abs()).int()
    lost = bits.view(torch.float32).double() != values
    return (bits | lost.int()).view(torch.float32).to(dtype)


def _read_back(base: Base, staging: Path, site: TensorSite, wanted: Tensor) -> Stored:
    return stored_as(site, read_tensor(base.folder, site), read_tensor(staging, site), wanted)


def stored_as(site: TensorSite, before: Tensor, found: Tensor, wanted: Tensor) -> Stored:
    """What lies at a place that held `before`, holds `found` and was to hold `wanted` (float64)."""
    change = float((wanted - before.double()).norm())
    missed = float((found.double() - wanted).norm())
    error = missed / change if change else float(missed > 0)
    return Stored(site, _sha256(found), error, before=_sha256(before))


def _sha256(tensor: Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
