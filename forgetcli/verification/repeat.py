"""The edit of a folder, made again in another folder (`apply --from`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact import card
from forgetcli.artifact.edited import EditedModel
from forgetcli.errors import ForgetError, ModelError
from forgetcli.pipeline.apply import ApplyResult
from forgetcli.progress import Observer
from forgetcli.verification import audit
from forgetcli.verification.recorded_edit import (
    applied,
    device_of,
    place,
    recipe_of,
    refuse_reverted,
)


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
    refuse_reverted(edited)
    recorded, _ = device_of(edited)
    result = applied(
        edited, base, recipe_of(edited, base), device or recorded, dtype, output, observer,
        copying=copying, force=force,
    )  # fmt: skip
    made = {place(t): t.after for t in EditedModel(result.output).manifest.edited}
    same = sum(made.get(place(tensor)) == tensor.after for tensor in edited.manifest.edited)
    return Repeated(result, len(edited.manifest.edited), same)
