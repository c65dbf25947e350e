"""An edited model made from a delta and its base: ``forget apply --delta``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact import patch, statement
from forgetcli.artifact.delta import EXPORT_AGAIN, Delta, find_base, read
from forgetcli.artifact.manifest import RECIPE, REPORT, Manifest
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.errors import EditError, ModelError
from forgetcli.pipeline import memory
from forgetcli.pipeline.apply import AppliedSite, ApplyResult, versions
from forgetcli.pipeline.job import ModelId
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic
from forgetcli.storage.copying import Copying
from forgetcli.storage.files import refuse_overlap, sha256_file
from forgetcli.storage.json import decode
from forgetcli.storage.safetensors import TensorSite, WeightFile


def apply_delta(
    path: str | Path,
    *,
    model: str | None = None,
    config: str | Path | None = None,
    output: Path | str = "edited",
    copying: Copying | str = "reflink",
    force: bool = False,
    observer: Observer | None = None,
) -> ApplyResult:
    """Make the edited model from a delta and its base, and publish it at `output` in one rename.

    Args:
        path: the delta, as ``forget export --format delta`` wrote it.
        model, config: see `delta.find_base`.
        output, copying, force: see `pipeline.apply.apply`.
    Raises:
        ForgetError: delta, base or output; nothing is left behind.
    """
    observer = observer or Silent()
    watch = Stopwatch()
    output = Path(output)
    started = datetime.now(UTC)
    with watch.stage("load"):
        delta = read(path)
        base = find_base(delta, model, config)
    refuse_overlap(output, base.place, kind="the base model")
    manifest = delta.manifest
    report = _report(delta)
    copying = Copying(copying)
    with atomic.publishing(output, force=force) as staging, watch.stage("write"):
        patch.check_room(base, staging, output, copying)
        observer.stage("writing")
        _copy(delta, base, staging, copying)
        _write_manifest(delta, base, staging, report, started)
        _refuse_other_result(staging, manifest)
    observer.done()
    return ApplyResult(
        output=output,
        base=ModelId.of(base),
        recipe_sha256=manifest.recipe_sha256,
        method=manifest.method,
        sites=tuple(map(_site_of_report, report.get("sites", ()))),
        check=report.get("check", {}),
        cache={"hits": 0, "misses": 0},
        seconds=watch.report(),
        peak_rss=memory.peak_rss(),
    )


def _report(delta: Delta) -> dict[str, Any]:
    """
    Raises:
        ModelError: delta.damaged: it is not a report.
    """
    try:
        report = decode(delta.own[REPORT], nan=False)
        _ = [*map(_site_of_report, report.get("sites", ()))], dict(report.get("check", {}))
    except (ValueError, TypeError, AttributeError, KeyError) as fault:
        what = f"{delta.path}: its {REPORT} is no report ({type(fault).__name__})"
        raise ModelError("delta.damaged", what, EXPORT_AGAIN) from fault
    return dict(report)


def _site_of_report(row: Mapping[str, Any]) -> AppliedSite:
    """A site as the report has it; figures that a later version added are left out."""
    known = {field.name for field in fields(AppliedSite)}
    return AppliedSite(**{key: value for key, value in row.items() if key in known})


def _copy(delta: Delta, base: Base, staging: Path, copying: Copying) -> None:
    """Fill `staging`: the base with the delta's tensors in it, and forget's own files."""
    tensors = delta.manifest.edited
    patch.copy_with(
        base,
        staging,
        ((_site(tensor, base.weight_file(tensor.file)), delta.value(tensor)) for tensor in tensors),
        {tensor.file for tensor in tensors},
        copying,
    )
    for name, data in delta.own.items():
        (staging / name).write_bytes(data)


def _write_manifest(
    delta: Delta, base: Base, staging: Path, report: Mapping[str, Any], started: datetime
) -> None:
    manifest = delta.manifest
    statement.write(
        staging,
        base=base,
        recipe_bytes=delta.own[RECIPE],
        method=manifest.method,
        parameters=manifest.parameters,
        stored=_stored(staging, manifest),
        report=report,
        materials=[{"name": name, "sha256": digest} for name, digest in manifest.materials.items()],
        run_details={
            "startedOn": started.isoformat(),
            "finishedOn": datetime.now(UTC).isoformat(),
            "delta": {"name": delta.path.name, "sha256": sha256_file(delta.path)},
            "edits": manifest.run_details.get("metadata", {}).get("edits", {}),
            "editedBy": manifest.run_details,
            "versions": versions(),
        },
    )


def _site(tensor: EditedTensor, weights: WeightFile) -> TensorSite:
    """The place of a tensor in the base, or in a copy of it.

    Raises:
        ModelError: delta.damaged: it is not there, though the base has the digest that the manifest
            names.
    """
    site = tensor.site(weights.sites)
    if site is None:
        raise ModelError(
            "delta.damaged",
            f"the delta's manifest names a wrong place for '{tensor.key}' in {tensor.file}",
            EXPORT_AGAIN,
        )
    return site


def _stored(staging: Path, manifest: Manifest) -> dict[tuple[str, str], Stored]:
    """The records that `patch.patch` returned when the edit was made, with the digests of the bytes
    on disk now.
    """
    weight_file = cache(partial(WeightFile, staging))
    parts: dict[tuple[str, str], list[Stored]] = {}
    for tensor in manifest.edited:
        site = _site(tensor, weight_file(tensor.file))
        digest = hashlib.sha256(weight_file(tensor.file).read_bytes(site)).hexdigest()
        stored = Stored(site, digest, tensor.error, before=tensor.before)
        parts.setdefault((tensor.component, tensor.parameter), []).append(stored)
    return {key: replace(first, also=tuple(others)) for key, (first, *others) in parts.items()}


def _refuse_other_result(staging: Path, manifest: Manifest) -> None:
    """
    Raises:
        EditError: delta.other-result: the folder is not the one that the delta was made of.
    """
    made = manifests.load(staging).subjects
    wrong = sorted(
        path
        for path in made.keys() | manifest.subjects.keys()
        if made.get(path) != manifest.subjects.get(path)
    )
    if wrong:
        only_settings = all(path.startswith(f"{CONFIG}/") for path in wrong)
        hint = "name the settings that the edit was made with: --config"
        raise EditError(
            "delta.other-result",
            f"the delta did not give the edited model back: {wrong[0]} differs",
            hint if only_settings else EXPORT_AGAIN,
        )
