"""The edit that a folder records: its recipe, its device, and making it once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError
from forgetcli.pipeline.apply import ApplyResult, apply
from forgetcli.process.device import pick_device
from forgetcli.progress import Observer
from forgetcli.recipe import Recipe
from forgetcli.verification.parameters import as_recorded

Place = tuple[str, str, int | None]  # file, key, third: see `EditedTensor`


def applied(
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


def recipe_of(edited: EditedModel, base: Base) -> Recipe:
    """The recipe of a folder with the parameters that held when it was made."""
    manifest = edited.manifest
    recipe = recipes.load(manifest.recipe_path).on(models.family_of(base.settings))
    return as_recorded(manifest.method, manifest.parameters, recipe)[1]


def refuse_reverted(edited: EditedModel) -> None:
    """Refuse to repeat an edit that was made to other weights than the base's.

    Raises:
        ForgetError: verify.reverted.
    """
    edits = edited.ledger
    if edits and edits.edits[-1].applied_to != edited.manifest.base_digest:
        raise ForgetError(
            "verify.reverted",
            f"edit {edits.edits[-1].number} of {edited.folder} cannot be repeated: it was made to "
            "a model that held other edits, and 'forget revert' has changed which there are",
            "verify it without --rebuild",
        )


def device_of(edited: EditedModel) -> tuple[str | None, list[str]]:
    """The device that the edit was made on, or None if this machine has none, and what is not
    proved then.
    """
    recorded = edited.manifest.run_details.get("metadata", {}).get("device")
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


def place(tensor: EditedTensor) -> Place:
    """Where a tensor lies in an edited folder."""
    return tensor.file, tensor.key, tensor.third
