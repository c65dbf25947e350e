"""The edit of a folder, repeated on this machine and compared with what lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.artifact import card
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import Problem, problem
from forgetcli.artifact.manifest import MANIFEST
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint.base import Base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import ForgetError, ModelError, counted
from forgetcli.pipeline.apply import ApplyResult, apply
from forgetcli.process.device import pick_device
from forgetcli.progress import Observer
from forgetcli.recipe import Recipe
from forgetcli.storage.scratch import scratch
from forgetcli.verification import audit
from forgetcli.verification.finding import Finding, read_edited
from forgetcli.verification.parameters import as_recorded

# ‖stored − rebuilt‖ / ‖stored − base‖ that other hardware, thread counts or library versions may
# cause: they round otherwise, and the refinement amplifies that. Chosen for machines that were not
# available: two threads instead of one gave 4e-5 (docs/checkpoints.md), the same number of threads
# gives the same bytes (tests).
TOLERANCE = 0.05

Place = tuple[str, str, int | None]  # file, key, third: see `EditedTensor`


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
    _refuse_reverted(edited)
    manifest = edited.manifest
    recipe = _recipe(edited, base)
    problems: list[Problem] = []
    device, elsewhere = _device(manifest.run_details.get("metadata", {}).get("device"))
    listed = {_place(tensor): tensor for tensor in manifest.edited}
    with scratch("rebuild") as folder:
        again = _repeat(edited, base, recipe, device, folder, observer)
        made = {_place(tensor): tensor for tensor in again.manifest.edited}
        problems += _listing_problems(listed, made)
        problems += _material_problems(manifest.materials, again.manifest.materials)
        not_proved = elsewhere + _other_moments(manifest.materials, again.manifest.materials)
        shared = [tensor for tensor in manifest.edited if _place(tensor) in made]
        differing = [t for t in shared if made[_place(t)].after != t.after]
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


@dataclass(frozen=True)
class Repeated:
    """An edit that was made again.

    Attributes:
        result: the edit.
        tensors: number of edited tensors of the original.
        same: how many of them have the same bytes again.
    """

    result: ApplyResult
    tensors: int
    same: int

    def as_dict(self) -> dict[str, Any]:
        """The keys of ``apply --json``, and what is the same as in the original."""
        return {**self.result.as_dict(), "tensors": self.tensors, "same": self.same}


def repeated(
    edited: EditedModel,
    output: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    copying: str = "reflink",
    force: bool = False,
    observer: Observer,
) -> Repeated:
    """Make the edit of a folder again, from its recipe and its base model, at `output`.

    Args:
        device, dtype: instead of those that the edit was made with.
    Raises:
        ModelError: apply.not-verified: the folder differs from its manifest; apply.other-base: the
            base model is another one; the base model is not on this machine.
        ForgetError: those of `apply`; verify.reverted.
    """
    verdict = audit.verify(edited)
    base = edited.base_or_fault
    if isinstance(base, ForgetError):
        raise ModelError(
            "apply.no-base",
            f"the base model '{card.base_name(edited.manifest.base_id)}' is needed: {base.message}",
            "name it with --model; only then is it fetched",
        )
    if base.digest != edited.manifest.base_digest:
        raise ModelError(
            "apply.other-base",
            f"'{base.id}' is not the model that was edited: its digest is {base.digest[:12]}…, not "
            f"{edited.manifest.base_digest[:12]}…",
            "name the base model with --model",
        )
    if not verdict.ok:
        first = verdict.problems[0]
        raise ModelError(
            "apply.not-verified",
            f"it differs from its manifest, so it is not repeated: {first.file} {first.what}",
            "'forget verify' lists all differences",
        )
    _refuse_reverted(edited)
    recorded, _ = _device(edited.manifest.run_details.get("metadata", {}).get("device"))
    result = _applied(
        edited, base, _recipe(edited, base), device or recorded, dtype, output, observer,
        copying=copying, force=force,
    )  # fmt: skip
    made = {_place(t): t.after for t in EditedModel(result.output).manifest.edited}
    same = sum(made.get(_place(tensor)) == tensor.after for tensor in edited.manifest.edited)
    return Repeated(result, len(edited.manifest.edited), same)


def _recipe(edited: EditedModel, base: Base) -> Recipe:
    """The recipe of a folder with the parameters that held when it was made."""
    manifest = edited.manifest
    recipe = recipes.load(manifest.recipe_path).on(models.family_of(base.settings))
    return as_recorded(manifest.method, manifest.parameters, recipe)[1]


def _refuse_reverted(edited: EditedModel) -> None:
    edits = edited.ledger
    if edits and edits.edits[-1].applied_to != edited.manifest.base_digest:
        raise ForgetError(
            "verify.reverted",
            f"edit {edits.edits[-1].number} of {edited.folder} cannot be repeated: it was made to "
            "a model that held other edits, and 'forget revert' has changed which there are",
            "verify it without --rebuild",
        )


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
    result = _applied(edited, base, recipe, device, None, output, observer, cache=cache)
    return EditedModel(result.output)


def _applied(
    edited: EditedModel,
    base: Base,
    recipe: Recipe,
    device: str | None,
    dtype: str | None,
    output: Path,
    observer: Observer,
    **options: Any,
) -> ApplyResult:
    """`apply` with the dtype that the edit was made with, unless another is given."""
    recorded = edited.manifest.run_details.get("metadata", {}).get("dtype")
    if dtype is None and recorded is not None:
        dtype = str(recorded).removeprefix("torch.")
    return apply(
        recipe,
        model=base.reference,
        config=base.config,
        output=output,
        device=device,
        dtype=dtype,
        strict=False,
        observer=observer,
        **options,
    )


def _place(tensor: EditedTensor) -> Place:
    return tensor.file, tensor.key, tensor.third


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


def _device(recorded: object) -> tuple[str | None, list[str]]:
    """The device that the edit was made on, or None if this machine has none, and what is not
    proved then.
    """
    if not isinstance(recorded, str):
        return None, []
    try:
        pick_device(recorded)
    except ForgetError:
        missing = (
            f"reproduction on '{recorded}', where the edit was made "
            "(no such device on this machine)"
        )
        return None, [missing]
    return recorded, []


def _distance(edited: EditedModel, again: EditedModel, base: Base, tensor: EditedTensor) -> float:
    """‖stored − rebuilt‖ / ‖rebuilt − base‖ of one tensor."""
    stored, repeated, before = (
        read_edited(tensor, model.weight_file(tensor.file)) for model in (edited, again, base)
    )
    return float((stored - repeated).norm() / (repeated - before).norm().clamp_min(1e-300))
