"""The cyclonedx format: a machine-learning bill of materials (ML-BOM), CycloneDX 1.6, as JSON.

It describes the edited model, the base model as its ancestor, the edited tensors as patches, the
scores and attacks that were measured, and the limits. The same folder and results give the same
bytes: the time is that of the edit, and the serial number is computed from the content.

The JSON is written here, because ``cyclonedx-python-lib`` has no class for model cards. The tests
validate it against the schema in that library.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from forgetcli import __version__
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.card import base_name, carried
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.evaluation.figure import Figure
from forgetcli.export.evidence import Evidence, gather
from forgetcli.export.modelspec import architecture
from forgetcli.export.results import MEASURES, AttackFigure, Scores
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file

SUFFIX = ".cdx.json"
SPEC_VERSION = "1.6"
SCHEMA = f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"
MODEL = "machine-learning-model"
# The digest of a model's files: the SHA-256 of the sorted lines "path sha256".
FILES_DIGEST = "forget:filesDigest"


class Options(BaseModel):
    """The settings.

    Attributes:
        eval: ``results.json`` of ``forget eval``; see `evidence.gather`.
        attack_results: ``results.json`` of ``forget attack``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    eval: Path | None = None
    attack_results: Path | None = None


def write(
    edited: EditedModel, output: Path, options: Options, force: bool, observer: Observer
) -> dict[str, Any]:
    """Write the ML-BOM. The digests of all files of the folder are checked first.

    Returns:
        ``files``, ``patches``, ``metrics``: how many the document has; ``missing``: what was not
        measured.
    Raises:
        ModelError, ForgetError: those of `evidence.gather`.
    """
    evidence = gather(edited, options.eval, options.attack_results, observer)
    observer.stage("writing")
    document = bom(evidence)
    with atomic.publishing_file(output, force=force) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
    component = document["metadata"]["component"]
    analysis = component["modelCard"].get("quantitativeAnalysis", {"performanceMetrics": []})
    return {
        "files": len(component["components"]),
        "patches": len(component["pedigree"]["patches"]),
        "metrics": len(analysis["performanceMetrics"]),
        "missing": evidence.missing(),
    }


def bom(evidence: Evidence) -> dict[str, Any]:
    """The document. Its serial number is a function of everything else in it."""
    metadata = {
        **_timestamp(evidence.edited),
        "tools": {
            "components": [{"type": "application", "name": "forgetcli", "version": __version__}]
        },
        "component": _component(evidence),
    }
    content = json.dumps(metadata, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"urn:forgetcli:bom:{digest}").urn,
        "version": 1,
        "metadata": metadata,
    }


def _timestamp(edited: EditedModel) -> dict[str, str]:
    """When the edit was finished; nothing if the manifest has no such time."""
    finished = edited.manifest.run_details.get("metadata", {}).get("finishedOn")
    try:
        time = datetime.fromisoformat(finished)
    except (TypeError, ValueError):
        return {}
    return {"timestamp": time.isoformat()} if time.tzinfo else {}


def _component(evidence: Evidence) -> dict[str, Any]:
    """The edited model."""
    edited, history = evidence.edited, evidence.history
    manifest = edited.manifest
    forgotten = ", ".join(concept.concept for concept in history.concepts) or "nothing"
    return {
        "bom-ref": "edited",
        "type": MODEL,
        "name": history.title,
        "version": edited.digest,
        "description": f"Edited by forget ({manifest.method}) to forget: {forgotten}.",
        **_licenses(edited),
        "pedigree": {
            "ancestors": [_base(evidence)],
            "patches": [_patch(tensor) for tensor in manifest.edited],
            "notes": "Only the tensors in the patches differ from the ancestor. 'forget verify' "
            "checks this byte by byte, and with --rebuild makes the edit again.",
        },
        "components": [_file(path, digest) for path, digest in _files(edited).items()],
        "modelCard": _model_card(evidence),
        "properties": _properties(
            {
                FILES_DIGEST: edited.digest,
                "forget:method": manifest.method,
                "forget:recipe": manifest.recipe_sha256,
                "forget:edits": history.edits,
            }
        ),
    }


def _licenses(edited: EditedModel) -> dict[str, Any]:
    """The base's licence, as the model card carries it; by name, since hubs have ids of their own.

    An address is left out, because anyone can have written it.
    """
    names = carried(edited.folder / manifests.CARD, edited.manifest.base_id).get("license", [])
    licenses = [names] if isinstance(names, str) else names
    named = [{"license": {"name": name, "acknowledgement": "declared"}} for name in licenses]
    return {"licenses": named} if named else {}


def _base(evidence: Evidence) -> dict[str, Any]:
    """The unedited model, with the digests of its files."""
    manifest = evidence.edited.manifest
    address = manifests.base_uri(manifest.base_id, manifest.base_revision)
    return {
        "bom-ref": "base",
        "type": MODEL,
        "name": base_name(manifest.base_id),
        **({"version": manifest.base_revision} if manifest.base_revision else {}),
        **({"purl": address} if address else {}),
        "components": [
            {**_file(path, digest), "bom-ref": f"base/{path}"}
            for path, digest in sorted(manifest.base_files.items())
        ],
        "properties": _properties({FILES_DIGEST: manifest.base_digest}),
    }


def _patch(tensor: EditedTensor) -> dict[str, Any]:
    """One edited tensor. Its diff is the manifest's entry: where it is, and its two digests."""
    content = json.dumps(tensor.model_dump(exclude_none=True), sort_keys=True)
    return {
        "type": "unofficial",
        "diff": {"text": {"contentType": "application/json", "content": content}},
    }


def _files(edited: EditedModel) -> dict[str, str]:
    """Path → SHA-256 of all files of the folder, the manifest and the signature included."""
    own = (manifests.MANIFEST, manifests.SIGNATURE)
    others = {
        name: sha256_file(edited.path(name)) for name in own if (edited.folder / name).is_file()
    }
    return dict(sorted({**edited.manifest.subjects, **others}.items()))


def _file(path: str, sha256: str) -> dict[str, Any]:
    return {
        "bom-ref": f"edited/{path}",
        "type": "file",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _model_card(evidence: Evidence) -> dict[str, Any]:
    metrics = list(_metrics(evidence))
    pairs = {
        f"forget:concept:{number}": f"{concept.concept} → {concept.target or '(nothing)'}"
        for number, concept in enumerate(evidence.history.concepts, 1)
    }
    results = {
        "forget:evaluation": evidence.scores.sha256 if evidence.scores else None,
        "forget:attacks": evidence.attacks.sha256 if evidence.attacks else None,
    }
    return {
        "bom-ref": "card",
        "modelParameters": {
            "task": "text-to-image",
            "architectureFamily": "latent diffusion",
            "modelArchitecture": architecture(evidence.edited),
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "image"}],
        },
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        "considerations": {
            "technicalLimitations": [
                *evidence.missing(),
                *(f"Not claimed: {sentence}" for sentence in evidence.not_claimed()),
            ],
            "ethicalConsiderations": [
                {
                    "name": "An erased concept may still be in the weights, hidden rather than "
                    "gone.",
                    "mitigationStrategy": "forget attack measures whether known attacks bring it "
                    "back; see the metrics and the technical limitations.",
                },
                {
                    "name": "An edit can distort concepts that were to stay, and biases of the "
                    "base model remain.",
                    "mitigationStrategy": "forget eval scores other concepts beside the unedited "
                    "model; see the metrics and the technical limitations.",
                },
            ],
        },
        "properties": _properties({**pairs, **results}),
    }


def _metrics(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """All figures that were measured, each with its interval and its number of images."""
    if evidence.scores is not None:
        yield from _score_metrics(evidence.scores)
    if evidence.attacks is not None:
        judge = evidence.attacks.judge.name
        if evidence.attacks.resist is not None:
            yield _metric(
                "resist",
                evidence.attacks.resist,
                "edited",
                f"the strongest attack: {evidence.attacks.strongest}",
                judge,
            )
        for row in evidence.attacks.rows:
            yield from _attack_metrics(row, judge)


def _score_metrics(scores: Scores) -> Iterator[dict[str, Any]]:
    for model, figures in (("edited", scores.edited), ("unedited", scores.unedited)):
        for key, figure in figures.items():
            yield _metric(key, figure, model, MEASURES[key], scores.judge.name)
        for concept in scores.concepts:
            measured = concept.edited if model == "edited" else concept.unedited
            if measured is not None:
                yield _metric(
                    concept.measure, measured, model, f"concept: {concept.concept}",
                    scores.judge.name,
                )  # fmt: skip
    for error in scores.judge.errors:
        yield _metric(
            "judge error", error.rate, "judge", f"{error.kind}, images: {error.images}",
            scores.judge.name,
        )  # fmt: skip


def _attack_metrics(row: AttackFigure, judge: str) -> Iterator[dict[str, Any]]:
    verdict = f"; no verdict: {row.no_verdict}" if row.no_verdict else ""
    where = f"{row.attack} on {row.concept}{verdict}"
    models = (("edited", row.edited), ("unedited", row.control), ("never-learned", row.floor))
    for model, figure in models:
        if figure is not None:
            yield _metric("attack success", figure, model, where, judge)


def _metric(kind: str, figure: Figure, model: str, what: str, judge: str) -> dict[str, Any]:
    low, high = figure.interval
    return {
        "type": kind,
        "value": f"{figure.value:.4f}",
        "slice": f"model: {model}; n: {figure.count}; judge: {judge}; {what}",
        "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
    }


def _properties(values: Mapping[str, object]) -> Sequence[dict[str, str]]:
    return [
        {"name": name, "value": str(value)} for name, value in values.items() if value is not None
    ]
