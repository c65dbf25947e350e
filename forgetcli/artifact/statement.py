"""The record of an edit, written beside the edited model in a form that others can check: an
in-toto Statement v1 with the SLSA provenance v1 predicate.

Times and versions stand under ``runDetails`` only, so a repeated run gives the same
``buildDefinition``. The manifest is not signed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.artifact.manifest import (
    BASE,
    CARD,
    FILES_DIGEST,
    MANIFEST,
    RECIPE,
    REPORT,
    base_uri,
)
from forgetcli.artifact.manifest_schema import (
    BUILD_TYPE,
    BUILDER,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    BuildDefinition,
    Dependency,
    EditedTensor,
    External,
    FileDigest,
    Internal,
    ListedEdit,
    ModelName,
    Predicate,
    Sha256Digest,
    Statement,
)
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint.base import Base
from forgetcli.errors import OutputError
from forgetcli.storage.files import sha256_file, walk_files
from forgetcli.storage.json import plain

if TYPE_CHECKING:
    from forgetcli.artifact.ledger_files import Origin


def write(
    staging: Path,
    *,
    base: Base | Origin,
    recipe_bytes: bytes,
    method: str,
    parameters: Mapping[str, Any],
    stored: Mapping[tuple[str, str], Stored],
    materials: Sequence[Mapping[str, str]],
    report: Mapping[str, Any],
    run_details: Mapping[str, Any],
    edits: Sequence[ListedEdit] = (),
) -> None:
    """Write recipe, report and manifest into a patched folder; the last step before it is
    published.

    Args:
        staging: what `patch.patch` filled; anything else that belongs to the output (a model card)
            is there already.
        recipe_bytes: the recipe as it was read.
        stored: what `patch.patch` returned.
        materials: the second moments, {"name", "sha256"} each.
        report: JSON-able; numbers that are not finite become null.
        run_details: all that differs from run to run; "versions" goes to the builder, the rest
            (``startedOn``, ``finishedOn``, …) to the metadata.
        edits: of a folder that more than one recipe has made, all edits that are in it (after
            `forget revert`; the recipe is that of the last one).
    Raises:
        OutputError: output.not-the-base: a file of the base is missing, or differs though no tensor
            of it was edited. Only the model card may be replaced.
    """
    (staging / RECIPE).write_bytes(recipe_bytes)
    (staging / REPORT).write_bytes(_json(report))
    subjects = {
        path: sha256_file(staging / path) for path in walk_files(staging) if path != MANIFEST
    }
    tensors = [tensor for key, part in sorted(stored.items()) for tensor in _edited(*key, part)]
    edited_files = {tensor.file for tensor in tensors}
    _refuse_other_changes(base, subjects, edited_files)
    recipe = _file_digest(RECIPE, subjects[RECIPE])
    external: dict[str, Any] = {
        "model": ModelName.model_construct(id=base.id, revision=base.revision),
        "recipe": recipe,
        "method": method,
        "parameters": parameters,
    }
    if edits:
        external["edits"] = list(edits)
    written = sorted(
        path
        for path, digest in subjects.items()
        if path not in edited_files and base.files.get(path) != digest
    )
    build = BuildDefinition.model_construct(
        build_type=BUILD_TYPE,
        external=External.model_construct(**external),
        internal=Internal.model_construct(edited=tensors, written=written),
        dependencies=_dependencies(base, recipe, materials),
    )
    _write_statement(staging, subjects, build, run_details)


def _refuse_other_changes(
    base: Base | Origin, subjects: Mapping[str, str], edited_files: Collection[str]
) -> None:
    for path, digest in base.files.items():
        if path not in edited_files and path != CARD and subjects.get(path) != digest:
            what = "was changed" if path in subjects else "is missing"
            raise OutputError(
                "output.not-the-base",
                f"{path} of the base {what} in the output",
                "did the base change meanwhile? apply the recipe again",
            )


def _write_statement(
    staging: Path,
    subjects: Mapping[str, str],
    build: BuildDefinition,
    run_details: Mapping[str, Any],
) -> None:
    details = {
        "builder": {"id": BUILDER, "version": run_details.get("versions", {})},
        "metadata": {key: value for key, value in run_details.items() if key != "versions"},
    }
    # Constructed without validation: a base may have file names that the manifest's reader
    # refuses. Such an edit was always written, and `verify` reports it.
    statement = Statement.model_construct(
        type=STATEMENT_TYPE,
        predicate_type=PREDICATE_TYPE,
        subject=[_file_digest(path, digest) for path, digest in sorted(subjects.items())],
        predicate=Predicate.model_construct(build=build, run_details=details),
    )
    data = statement.model_dump(by_alias=True, exclude_unset=True, warnings=False)
    (staging / MANIFEST).write_bytes(_json(data))


def replace_card(folder: Path, staging: Path) -> None:
    """Write the manifest of `folder` into `staging` with the digest of the card that lies there;
    nothing else in it changes.
    """
    # Read as plain JSON: fields of later versions stay in it.
    statement = json.loads((folder / MANIFEST).read_bytes())
    digest = {"name": CARD, "digest": {"sha256": sha256_file(staging / CARD)}}
    others = [subject for subject in statement["subject"] if subject["name"] != CARD]
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    statement["subject"] = sorted([*others, digest], key=lambda subject: subject["name"])
    internal["written"] = sorted({*internal["written"], CARD})
    (staging / MANIFEST).write_bytes(_json(statement))


def _edited(component: str, parameter: str, stored: Stored) -> Iterator[EditedTensor]:
    """One parameter in every form of the weights that has it."""
    for part in (stored, *stored.also):
        third: dict[str, Any] = {} if part.site.third is None else {"third": part.site.third}
        yield EditedTensor.model_construct(
            component=component,
            parameter=parameter,
            file=part.site.file,
            key=part.site.key,
            dtype=part.site.dtype,
            start=part.site.start,
            end=part.site.end,
            error=part.error,
            before=part.before,
            after=part.sha256,
            **third,
        )


def _dependencies(
    base: Base | Origin, recipe: FileDigest, materials: Sequence[Mapping[str, str]]
) -> list[Dependency]:
    """Everything that went into the edit: the base, each of its files, the recipe, the second
    moments.
    """
    address = base_uri(base.id, base.revision)
    uri: dict[str, Any] = {"uri": address} if address else {}
    whole = Dependency.model_construct(name=BASE, digest={FILES_DIGEST: base.digest}, **uri)
    files = [_dependency(f"{BASE}/{path}", digest) for path, digest in sorted(base.files.items())]
    moments = [_dependency(material["name"], material["sha256"]) for material in materials]
    return [whole, *files, _dependency(recipe.name, recipe.digest.sha256), *moments]


def _dependency(name: str, sha256: str) -> Dependency:
    return Dependency.model_construct(name=name, digest={"sha256": sha256})


def _file_digest(name: str, sha256: str) -> FileDigest:
    return FileDigest.model_construct(name=name, digest=Sha256Digest.model_construct(sha256=sha256))


def listed_edit(
    number: int, method: str, parameters: Mapping[str, Any], name: str, sha256: str
) -> ListedEdit:
    """One edit for `write`; `name` and `sha256` are the recipe's."""
    return ListedEdit.model_construct(
        number=number,
        method=method,
        parameters=dict(parameters),
        recipe=_file_digest(name, sha256),
    )


def _json(value: Any) -> bytes:
    return (json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
