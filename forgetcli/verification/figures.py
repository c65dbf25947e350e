"""Whether the figures in the report are those of the tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import Problem, problem
from forgetcli.artifact.manifest import MANIFEST, REPORT, EditedTensor, Manifest
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError
from forgetcli.verification.finding import Finding, read_edited

# Rounding error of a weight in the dtype that the model ran in, relative.
RUN_ERROR = {
    "float16": 2**-11,
    "bfloat16": 2**-8,
}
# Relative: float64 sums in another order, and numbers printed as JSON.
SLACK = 1e-6


def report(edited: EditedModel) -> Finding:
    """Whether ‖Δ‖/‖W‖ and the rounding error of each site, as reported, are what base and stored
    tensors give.
    """
    try:
        rows = json.loads(edited.report_bytes.decode("utf-8"))["sites"]
        reported = {row["name"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        kind = type(fault).__name__
        text = f"has no sites that could be compared with the tensors ({kind})"
        return Finding([problem(REPORT, text)])
    manifest = edited.manifest
    tensors = {name: tensor for name in reported if (tensor := _tensor_of(name, manifest))}
    problems = _coverage(reported, tensors, manifest)
    if not tensors:
        return Finding(problems)
    base = edited.base_or_fault
    if isinstance(base, ForgetError):
        missing = "that the report's figures are those of the tensors: that needs the base"
        return Finding(problems, not_proved=[missing])
    for name, tensor in tensors.items():
        what: str | None
        try:
            what = _figure_problem(edited, base, tensor, reported[name])
        except (ForgetError, OSError) as fault:
            what = f"cannot be compared with the tensors: {getattr(fault, 'message', fault)}"
        if what:
            problems.append(problem(REPORT, f"'{name}': {what}"))
    if problems:
        return Finding(problems)
    claim = f"the reported size of the change at all {len(tensors)} sites is that of the tensors"
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
    edited: EditedModel, base: Base, tensor: EditedTensor, row: Mapping[str, Any]
) -> str | None:
    """What is wrong with the figures of one site; None if they are right."""
    before = read_edited(tensor, base.weight_file(tensor.file))
    after = read_edited(tensor, edited.weight_file(tensor.file))
    measured = float((after - before).norm() / before.norm())
    size = row.get("delta_rel")
    error = row.get("stored_error")
    if not _is_finite(size) or not _is_finite(error):
        return "delta_rel or stored_error is no number"
    if not math.isclose(error, tensor.error, rel_tol=SLACK, abs_tol=1e-12):
        return f"stored_error is {error:.3g} there and {tensor.error:.3g} in {MANIFEST}"
    metadata = edited.manifest.run_details.get("metadata", {})
    run_error = RUN_ERROR.get(str(metadata.get("dtype", "")).removeprefix("torch."), 0.0)
    # ‖stored − W‖ lies within ‖stored − exact‖ = error · ‖Δ‖ of ‖Δ‖.
    if abs(measured - size) > (error + run_error + SLACK) * max(measured, size):
        return (
            f"‖Δ‖/‖W‖ is {size:.6g} there, but {measured:.6g} by the tensors "
            f"(rounding accounts for {error:.1g} of it)"
        )
    return None


def _is_finite(figure: object) -> TypeGuard[float]:
    return isinstance(figure, int | float) and math.isfinite(figure)


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
