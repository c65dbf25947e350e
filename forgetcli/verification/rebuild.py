"""The edit of a folder, repeated on this machine and compared with what lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import Problem, problem
from forgetcli.artifact.manifest import MANIFEST
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint.base import Base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import ForgetError, counted
from forgetcli.progress import Observer
from forgetcli.recipe import Recipe
from forgetcli.storage.scratch import scratch
from forgetcli.verification.finding import Finding, read_edited
from forgetcli.verification.recorded_edit import (
    Place,
    applied,
    device_of,
    place,
    recipe_of,
    refuse_reverted,
)

# ‖stored − rebuilt‖ / ‖stored − base‖ that other hardware, thread counts or library versions may
# cause: they round otherwise, and the refinement amplifies that. Chosen for machines that were not
# available: two threads instead of one gave 4e-5 (docs/checkpoints.md), the same number of threads
# gives the same bytes (tests).
TOLERANCE = 0.05


def rebuilt(edited: EditedModel, observer: Observer) -> Finding:
    """Whether the manifest's recipe, method, seed, device and dtype give these weights again.

    Raises:
        ForgetError: the base is not here, or the edit cannot be made on this machine;
            verify.reverted: it was made to a model with edits that `forget revert` has taken out,
            or that are not in the manifest's base.
    """
    base = edited.base_or_fault
    if isinstance(base, ForgetError):
        raise base
    refuse_reverted(edited)
    manifest = edited.manifest
    recipe = recipe_of(edited, base)
    problems: list[Problem] = []
    device, elsewhere = device_of(edited)
    listed = {place(tensor): tensor for tensor in manifest.edited}
    with scratch("rebuild") as folder:
        again = _repeat(edited, base, recipe, device, folder, observer)
        made = {place(tensor): tensor for tensor in again.manifest.edited}
        problems += _listing_problems(listed, made)
        problems += _material_problems(manifest.materials, again.manifest.materials)
        not_proved = elsewhere + _other_moments(manifest.materials, again.manifest.materials)
        shared = [tensor for tensor in manifest.edited if place(tensor) in made]
        differing = [t for t in shared if made[place(t)].after != t.after]
        distances = {t: _distance(edited, again, base, t) for t in differing}
    problems += [
        problem(
            tensor.file,
            f"'{tensor.key}' is not what the recipe gives here: "
            f"they differ by {distance:.2g} of the change (tolerance {TOLERANCE})",
        )
        for tensor, distance in distances.items()
        if not distance <= TOLERANCE  # NaN is a problem too
    ]
    if problems:
        return Finding(problems)
    count = counted(len(shared), "tensor")
    if not differing:
        claim = f"the edit, repeated here, gives all {count} again, byte for byte"
        return Finding(proved=[claim], not_proved=not_proved)
    claim = (
        f"the edit, repeated here, gives the {count} again to within "
        f"{max(distances.values()):.2g} of the change (tolerance {TOLERANCE})"
    )
    missing = (
        "that the edit gives the same bytes: differences in "
        f"{counted(len(differing), 'tensor')} are within the tolerance, as other "
        "hardware, thread counts or library versions make them"
    )
    return Finding(proved=[claim], not_proved=[*not_proved, missing])


def _repeat(
    edited: EditedModel,
    base: Base,
    recipe: Recipe,
    device: str | None,
    folder: Path,
    observer: Observer,
) -> EditedModel:
    """The edit made again in `folder`, with nothing from the user's cache."""
    cache = MomentCache(folder / "cache")
    output = folder / "edited"
    result = applied(edited, base, recipe, device, None, output, observer, cache=cache)
    return EditedModel(result.output)


def _listing_problems(
    listed: Mapping[Place, EditedTensor], made: Mapping[Place, EditedTensor]
) -> list[Problem]:
    """Tensors that only the manifest, or only the repeated edit, has as edited."""
    surplus = [
        problem(t.file, f"'{t.key}' is listed as edited, but the recipe does not edit it here")
        for place, t in listed.items()
        if place not in made
    ]
    return surplus + [
        problem(t.file, f"'{t.key}' is not listed as edited, but the recipe edits it here")
        for place, t in made.items()
        if place not in listed
    ]


def _material_problems(listed: Mapping[str, str], made: Mapping[str, str]) -> list[Problem]:
    """Second moments that only the manifest, or only the repeated edit, has."""
    return [
        problem(MANIFEST, f"the second moment '{name}' is not one that the recipe needs here")
        for name in sorted(listed.keys() - made.keys())
    ] + [
        problem(MANIFEST, f"the second moment '{name}' is missing")
        for name in sorted(made.keys() - listed.keys())
    ]


def _other_moments(listed: Mapping[str, str], made: Mapping[str, str]) -> list[str]:
    """Second moments with another digest than the manifest's, as a statement that is not proved.

    This is no problem in itself. Another machine rounds otherwise in float64, while weights in
    float16 can still be the same bytes.
    """
    other = sorted(name for name in listed.keys() & made.keys() if listed[name] != made[name])
    if not other:
        return []
    which = other[0] + (f" and {len(other) - 1} more" if other[1:] else "")
    return [
        f"that the second moments are those that the manifest lists: {which} have other digests "
        "here, as other hardware, thread counts or library versions make them"
    ]


def _distance(edited: EditedModel, again: EditedModel, base: Base, tensor: EditedTensor) -> float:
    """‖stored − rebuilt‖ / ‖rebuilt − base‖ of one tensor."""
    stored, repeated, before = (
        read_edited(tensor, model.weight_file(tensor.file)) for model in (edited, again, base)
    )
    return float((stored - repeated).norm() / (repeated - before).norm().clamp_min(1e-300))
