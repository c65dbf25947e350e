"""Whether the figures in the report are those of the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import Problem, problem
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.manifest import MANIFEST, REPORT, Manifest
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError, ModelError, counted
from forgetcli.storage.json import decode
from forgetcli.verification.finding import Finding, read_edited
from forgetcli.verification.history import place_of, values_before

if TYPE_CHECKING:
    from torch import Tensor

# Rounding error of a weight in the dtype that the model ran in, relative.
RUN_ERROR = {
    "float16": 2**-11,
    "bfloat16": 2**-8,
    "mixed": 2**-8,
}
# Relative: float64 sums in another order, and numbers printed as JSON.
SLACK = 1e-6


def report(edited: EditedModel) -> Finding:
    """Whether ‖Δ‖/‖W‖ and the rounding error of each site, as reported, are what base and stored
    tensors give.
    """
    try:
        whole = decode(edited.report_bytes, nan=False)
        reported = {row["name"]: row for row in whole["sites"]}
        malformed = _malformed(whole)
    except (ForgetError, OSError, ValueError, KeyError, TypeError) as fault:
        kind = getattr(fault, "message", type(fault).__name__)
        text = f"has no sites that could be compared with the tensors ({kind})"
        return Finding([problem(REPORT, text)])
    if malformed:
        return Finding([problem(REPORT, malformed)])
    manifest = edited.manifest
    tensors = {name: tensor for name in reported if (tensor := _tensor_of(name, manifest))}
    problems = _coverage(reported, tensors, manifest)
    if not tensors:
        return Finding(problems)
    for name, tensor in tensors.items():
        what = _stored_error_problem(tensor, reported[name])
        if what:
            problems.append(problem(REPORT, f"'{name}': {what}"))
    if problems:
        return Finding(problems)
    base = edited.base_or_fault
    ledger = None
    if isinstance(base, ForgetError):
        ledger = _ledger(edited)
    if isinstance(base, ForgetError) and ledger is None:
        missing = "that the report's figures are those of the tensors: that needs the base"
        return Finding(problems, not_proved=[missing])
    for name, tensor in tensors.items():
        try:
            before = _before(edited, base, ledger, tensor)
            what = _figure_problem(edited, before, tensor, reported[name])
        except (ForgetError, OSError) as fault:
            what = f"cannot be compared with the tensors: {getattr(fault, 'message', fault)}"
        if what:
            problems.append(problem(REPORT, f"'{name}': {what}"))
    if problems:
        return Finding(problems)
    claim = (
        f"the reported size of the change at all {counted(len(tensors), 'site')} is that of the "
        "tensors"
    )
    return Finding(proved=[claim])


def _coverage(
    reported: Mapping[str, Any], tensors: Mapping[str, EditedTensor], manifest: Manifest
) -> list[Problem]:
    """Sites that are reported but not edited, and parameters that are edited but not reported."""
    covered = {(t.component, t.parameter) for t in tensors.values()}
    unknown = [
        problem(REPORT, f"reports on '{name}', which is not listed as edited")
        for name in reported
        if name not in tensors
    ]
    return unknown + [
        problem(REPORT, f"says nothing of '{t.component}/{t.parameter}', which is listed as edited")
        for t in _first_of_each(manifest)
        if (t.component, t.parameter) not in covered
    ]


def _figure_problem(
    edited: EditedModel, before: Tensor, tensor: EditedTensor, row: Mapping[str, Any]
) -> str | None:
    """What is wrong with the size of the change at one site; None if it is right."""
    after = read_edited(tensor, edited.weight_file(tensor.file))
    measured = float((after - before).norm() / before.norm())
    size = float(row["delta_rel"])
    error = float(row["stored_error"])
    metadata = edited.manifest.run_details.get("metadata", {})
    run_error = RUN_ERROR.get(str(metadata.get("dtype", "")).removeprefix("torch."), 0.0)
    # ‖stored − W‖ lies within ‖stored − exact‖ = error · ‖Δ‖ of ‖Δ‖.
    if abs(measured - size) > (error + run_error + SLACK) * max(measured, size):
        return (
            f"‖Δ‖/‖W‖ is {size:.6g} there, but {measured:.6g} by the tensors "
            f"(rounding accounts for {error:.1g} of it)"
        )
    return None


def _before(
    edited: EditedModel, base: Base | ForgetError, ledger: Ledger | None, tensor: EditedTensor
) -> Tensor:
    """A tensor's values before the edit, float64: the base's own, or those that the ledger keeps.

    Raises:
        ModelError: model.changed: there are none where the manifest says.
    """
    if isinstance(base, Base):
        return read_edited(tensor, base.weight_file(tensor.file))
    place = place_of(ledger, tensor) if ledger else None
    if ledger is None or place is None:
        raise ModelError("model.changed", f"the ledger has no tensor '{tensor.key}'", "")
    return values_before(ledger, edited.manifest, place).double()


def _ledger(edited: EditedModel) -> Ledger | None:
    """The ledger, if it has the values of the weights before the edit; other problems with it are
    found by `history`.
    """
    try:
        ledger = edited.ledger
        fits = ledger is not None and not any(True for _ in ledger.differing(edited.folder))
    except (ForgetError, OSError):
        return None
    return ledger if fits else None


def _malformed(report: Mapping[str, Any]) -> str | None:
    """What in a report has not the type that its readers expect; None if all has."""
    rows = report["sites"]
    if type(report.get("schema_version")) is not int or report["schema_version"] != 1:
        return "its schema_version is not 1"
    if len({row["name"] for row in rows}) != len(rows):
        return "it has a site twice"
    figures = [value for row in rows for key, value in row.items() if key != "name"]
    figures += (
        report.get("check", {}).values() if isinstance(report.get("check", {}), dict) else [""]
    )
    losses = report.get("losses", [])
    figures += losses if isinstance(losses, list) else [""]
    if not all(value is None or _is_finite(value) for value in figures):
        return "a figure in it is no number"
    return None


def _stored_error_problem(tensor: EditedTensor, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the rounding error of one site; None if it is right."""
    error = row.get("stored_error")
    if not _is_finite(row.get("delta_rel")) or not _is_finite(error):
        return "delta_rel or stored_error is no number"
    if not math.isclose(error, tensor.error, rel_tol=SLACK, abs_tol=1e-12):
        return f"stored_error is {error:.3g} there and {tensor.error:.3g} in {MANIFEST}"
    return None


def _is_finite(figure: object) -> TypeGuard[float]:
    if isinstance(figure, bool) or not isinstance(figure, int | float):
        return False
    return math.isfinite(figure)


def _tensor_of(name: str, manifest: Manifest) -> EditedTensor | None:
    """The edited tensor that a report's site names: a layer, or a parameter in full, with or
    without its component.
    """
    for tensor in _first_of_each(manifest):
        full = f"{tensor.component}.{tensor.parameter}"
        names = (tensor.parameter, full)
        if name in names or name in [known.removesuffix(".weight") for known in names]:
            return tensor
    return None


def _first_of_each(manifest: Manifest) -> Iterator[EditedTensor]:
    """The form of each edited parameter that loaders read by default; the report is on these."""
    seen = set()
    for tensor in manifest.edited:
        if (tensor.component, tensor.parameter) not in seen:
            seen.add((tensor.component, tensor.parameter))
            yield tensor
