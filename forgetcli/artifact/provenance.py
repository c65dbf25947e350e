"""What was done to a model, written beside it in a form that others can check; and the check.

Times and versions stand under ``runDetails`` only, so a repeated run gives the same
``buildDefinition``. The manifest
is not signed: it shows accidents, not a forger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.artifact.manifest import (
    BASE,
    BUILD_TYPE,
    BUILDER,
    CARD,
    FILES_DIGEST,
    MANIFEST,
    PREDICATE_TYPE,
    RECIPE,
    REPORT,
    SIGNATURE,
    STATEMENT_TYPE,
    EditedTensor,
    Manifest,
    is_hubs,
    load,
)
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError, ModelError, OutputError
from forgetcli.storage.files import files_digest, is_regular, sha256_file, walk_files
from forgetcli.storage.json import plain
from forgetcli.storage.safetensors import read_bytes, read_header

if TYPE_CHECKING:
    from forgetcli.artifact.ledger_files import Origin

__all__ = [
    "CARD",
    "MANIFEST",
    "RECIPE",
    "REPORT",
    "EditedTensor",
    "Manifest",
    "Verdict",
    "load",
    "verify",
    "write",
]

CHUNK = 4 << 20  # bytes compared at a time
UNSIGNED = (
    "who made it: the manifest is not signed, so it shows accidents, "
    "not a forger who rewrites files and manifest together"
)
EFFECT = "that the concept is gone: 'forget eval' measures that"


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
    edits: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write recipe, report and manifest into a patched folder; the last step before it is
    published.

    Args:
        staging: what `patching.patch` filled; anything else that belongs to the output (a model
            card) is there
            already.
        recipe_bytes: the recipe as it was read.
        stored: what `patching.patch` returned.
        materials: the second moments, {"name", "sha256"} each.
        report: JSON-able; numbers that are not finite become null.
        run_details: all that differs from run to run; "versions" goes to the builder, the rest
            (``startedOn``,
            ``finishedOn``, …) to the metadata.
        edits: of a folder that more than one recipe has made, all that are in it (after `forget
            revert`, the recipe being
            the last one's).
    Raises:
        OutputError: output.not-the-base: a file of the base is missing, or differs though no tensor
            of it was edited.
            Only the model card may be replaced.
    """
    (staging / RECIPE).write_bytes(recipe_bytes)
    (staging / REPORT).write_bytes(_json(report))
    subjects = {
        path: sha256_file(staging / path) for path in walk_files(staging) if path != MANIFEST
    }
    tensors = [tensor for key, part in sorted(stored.items()) for tensor in _edited(*key, part)]
    edited_files = {tensor["file"] for tensor in tensors}
    for path, digest in base.files.items():
        if path not in edited_files and path != CARD and subjects.get(path) != digest:
            what = "was changed" if path in subjects else "is missing"
            raise OutputError(
                "output.not-the-base",
                f"{path} of the base {what} in the output",
                "did the base change meanwhile? apply the recipe again",
            )
    recipe = {"name": RECIPE, "digest": {"sha256": subjects[RECIPE]}}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": path, "digest": {"sha256": digest}}
            for path, digest in sorted(subjects.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": {"id": base.id, "revision": base.revision},
                    "recipe": recipe,
                    "method": method,
                    "parameters": parameters,
                    **({"edits": list(edits)} if edits else {}),
                },
                "internalParameters": {
                    "edited": tensors,
                    "written": sorted(
                        path
                        for path, digest in subjects.items()
                        if path not in edited_files and base.files.get(path) != digest
                    ),
                },
                "resolvedDependencies": [
                    _base_descriptor(base),
                    *(
                        {"name": f"{BASE}/{path}", "digest": {"sha256": digest}}
                        for path, digest in sorted(base.files.items())
                    ),
                    recipe,
                    *({"name": m["name"], "digest": {"sha256": m["sha256"]}} for m in materials),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": run_details.get("versions", {})},
                "metadata": {key: value for key, value in run_details.items() if key != "versions"},
            },
        },
    }
    (staging / MANIFEST).write_bytes(_json(statement))


def replace_card(folder: Path, staging: Path) -> None:
    """Write the manifest of `folder` into `staging` with the digest of the card that lies there;
    nothing else in it changes.
    """
    statement = json.loads((folder / MANIFEST).read_bytes())
    digest = {"name": CARD, "digest": {"sha256": sha256_file(staging / CARD)}}
    others = [subject for subject in statement["subject"] if subject["name"] != CARD]
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    statement["subject"] = sorted([*others, digest], key=lambda subject: subject["name"])
    internal["written"] = sorted({*internal["written"], CARD})
    (staging / MANIFEST).write_bytes(_json(statement))


def _edited(component: str, parameter: str, stored: Stored) -> list[dict]:
    return [
        {
            "component": component,
            "parameter": parameter,
            "file": part.site.file,
            "key": part.site.key,
            "dtype": part.site.dtype,
            "start": part.site.start,
            "end": part.site.end,
            "error": part.error,
            "before": part.before,
            "after": part.sha256,
            **({} if part.site.third is None else {"third": part.site.third}),
        }
        for part in (stored, *stored.also)
    ]


def _base_descriptor(base: Base) -> dict:
    descriptor = {"name": BASE, "digest": {FILES_DIGEST: base.digest}}
    if base.id == "demo":
        descriptor["uri"] = "pkg:pypi/forgetcli#forgetcli/demo/model"
    elif base.revision:
        descriptor["uri"] = f"pkg:huggingface/{base.id}@{base.revision}"
    return descriptor


def _json(value: Any) -> bytes:
    return (json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        ok: no problem was found; what is not proved does not count against it.
        problems: {"file", "what"} each.
        proved, not_proved: in plain words.
        edited: tensors that the manifest lists as edited. files: files of the folder, the manifest
            included.
    """

    ok: bool
    problems: list[dict[str, str]]
    proved: list[str]
    not_proved: list[str]
    edited: int
    files: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(folder: str | Path, base: str | Path | None = None) -> Verdict:
    """Check that a folder is exactly what its manifest says, and that nothing but the listed
    tensors differs from the
    base.

    Args:
        base: the unedited model; by default the one that the manifest names, if it is on this
            machine (nothing is
            downloaded).
    Raises:
        ModelError: there is no such folder, or `base` was given and cannot be had. Whatever is
            wrong *in* the folder is
            a problem in the verdict, not an error.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            "model.not-found",
            f"there is no folder {folder}",
            "give the folder that 'forget apply' wrote",
        )
    present = walk_files(folder)
    try:
        manifest = load(folder)
    except ModelError as fault:
        nothing = ["anything: without a manifest there is nothing to compare with"]
        return Verdict(False, [problem(MANIFEST, fault.message)], [], nothing, 0, len(present))
    against = find_base(manifest, base)
    files = _check_files(folder, manifest, present)
    claims = _check_claims(manifest)
    tensors = _check_tensors(folder, manifest)
    problems = [*files, *claims, *tensors]
    proved = []
    if not files:
        proved.append(
            f"all {len(manifest.subjects)} files have the digests in {MANIFEST}; "
            "none is missing, none was added"
        )
    if not tensors and manifest.edited:
        proved.append(f"the {len(manifest.edited)} edited tensors have the recorded digests")
    not_proved = [UNSIGNED, EFFECT] if manifest.edited else [UNSIGNED]
    if isinstance(against, ForgetError):
        not_proved.insert(
            0,
            f"that nothing else changed: the base '{manifest.base}' cannot be had here "
            f"({against.message}); name it with --base",
        )
    else:
        differences = _compare(folder, manifest, against)
        problems += differences
        if not differences and not claims:
            proved.append(
                f"every other file and byte is that of the base '{against.id}' "
                f"(digest {manifest.base_digest[:12]}…), the headers of edited files included"
                if manifest.edited
                else f"no tensor is edited: every file but forget's own is that of the base '{against.id}' "
                f"(digest {manifest.base_digest[:12]}…), byte for byte"
            )
        newer = sorted(against.files.keys() - manifest.base_files.keys())
        if newer:
            not_proved.insert(
                0,
                f"anything about {len(newer)} files that the base did not have when it was edited: "
                f"{', '.join(newer[:5])}",
            )
    if any(map(is_hubs, present)):
        not_proved.insert(
            0, "anything about .gitattributes and .cache, which the hub adds: no loader reads them"
        )
    return Verdict(not problems, problems, proved, not_proved, len(manifest.edited), len(present))


def problem(file: str, what: str) -> dict[str, str]:
    """One of a verdict's problems; a name that is no text is made one."""
    return {
        "file": file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "what": what,
    }


def find_base(manifest: Manifest, base: str | Path | None) -> Base | ForgetError:
    """The unedited model: the one given, or the one that the manifest names, or why that one cannot
    be had here.
    """
    if base is not None:
        return manifest.resolve_base(base)
    try:
        return manifest.resolve_base(download=False)
    except ForgetError as fault:
        return fault


def _check_files(folder: Path, manifest: Manifest, present: list[str]) -> list[dict[str, str]]:
    problems = [
        problem(path, "is missing") for path in sorted(manifest.subjects.keys() - set(present))
    ]
    problems += [
        problem(path, "was added: the manifest does not list it")
        for path in present
        if path not in (MANIFEST, SIGNATURE, *manifest.subjects) and not is_hubs(path)
    ]
    for path in sorted(manifest.subjects.keys() & set(present)):
        if not is_regular(folder / path):
            problems.append(problem(path, "is not a regular file"))
            continue
        try:
            if sha256_file(folder / path) != manifest.subjects[path]:
                problems.append(
                    problem(path, "was changed: its digest is not the one in the manifest")
                )
        except OSError as fault:
            problems.append(problem(path, f"cannot be read: {fault.strerror or fault}"))
    return problems


def _check_claims(manifest: Manifest) -> list[dict[str, str]]:
    """Whether the manifest agrees with itself: each file is the base's, an edited one, or forget's
    own.
    """
    problems = []
    edited = {tensor.file for tensor in manifest.edited}
    for path in sorted(edited - manifest.base_files.keys() | edited - manifest.subjects.keys()):
        problems.append(
            problem(path, "has edited tensors, but is no file of both the base and this folder")
        )
    for path in sorted(set(manifest.written) - {MANIFEST, REPORT, RECIPE, CARD}):
        if path in manifest.base_files:
            problems.append(problem(path, "is listed as forget's own, but is a file of the base"))
    for path, digest in sorted(manifest.base_files.items()):
        if path not in manifest.subjects:
            problems.append(problem(path, "is a file of the base that is not part of this folder"))
        elif (
            path not in edited
            and path not in manifest.written
            and manifest.subjects[path] != digest
        ):
            problems.append(problem(path, "differs from the base, but is not listed as edited"))
    for path in sorted(
        manifest.subjects.keys() - manifest.base_files.keys() - set(manifest.written)
    ):
        problems.append(problem(path, "is neither the base's nor listed as forget's own"))
    if manifest.subjects.get(manifest.recipe_path.name) != manifest.recipe_sha256:
        problems.append(
            problem(
                manifest.recipe_path.name, "is not the recipe that the manifest says was applied"
            )
        )
    if files_digest(manifest.base_files) != manifest.base_digest:
        problems.append(
            problem(MANIFEST, "its digest of the base does not fit its list of the base's files")
        )
    return problems


def _check_tensors(folder: Path, manifest: Manifest) -> list[dict[str, str]]:
    problems = []
    for tensor in manifest.edited:
        try:
            what = _tensor_problem(folder, tensor, tensor.after)
        except (ForgetError, OSError) as fault:
            what = f"cannot be read: {getattr(fault, 'message', fault)}"
        if what:
            problems.append(problem(tensor.file, what))
    return problems


def _tensor_problem(folder: Path, tensor: EditedTensor, digest: str) -> str | None:
    site = tensor.site(read_header(folder, tensor.file))
    if site is None:
        return f"tensor '{tensor.key}' is not where the manifest says"
    if hashlib.sha256(read_bytes(folder, site)).hexdigest() != digest:
        return f"tensor '{tensor.key}' does not have the recorded digest"
    return None


def _compare(folder: Path, manifest: Manifest, base: Base) -> list[dict[str, str]]:
    """Everything in which the folder differs from the base beyond the listed tensors."""
    problems = []
    for path, digest in sorted(manifest.base_files.items()):
        if base.files.get(path) != digest:
            problems.append(
                problem(
                    path,
                    f"the base '{base.id}' here is not the one that was edited: its copy "
                    f"{'differs' if path in base.files else 'is missing'}",
                )
            )
        elif path not in manifest.written:
            try:
                problems += [
                    problem(path, what) for what in _file_differences(folder, manifest, base, path)
                ]
            except (ForgetError, OSError) as fault:
                problems.append(
                    problem(
                        path,
                        f"cannot be compared with the base: {getattr(fault, 'message', fault)}",
                    )
                )
    return problems


def _file_differences(folder: Path, manifest: Manifest, base: Base, path: str) -> list[str]:
    mine, theirs = folder / path, base.folder / path
    if not is_regular(mine):
        return ["differs from the base: no regular file"]
    if mine.stat().st_size != theirs.stat().st_size:
        return [f"differs from the base: {mine.stat().st_size} bytes, not {theirs.stat().st_size}"]
    tensors = [tensor for tensor in manifest.edited if tensor.file == path]
    faults = (_tensor_problem(base.folder, tensor, tensor.before) for tensor in tensors)
    wrong = [f"in the base, {fault}" for fault in faults if fault]
    at = _first_difference(mine, theirs, sorted((tensor.start, tensor.end) for tensor in tensors))
    if at is None:
        return wrong
    sites = read_header(base.folder, path).values() if path.endswith(".safetensors") else ()
    inside = [site.key for site in sites if site.start <= at < site.end]
    place = f"tensor '{inside[0]}'" if inside else f"byte {at}"
    return [*wrong, f"differs from the base in {place}, which is not listed as edited"]


def _first_difference(mine: Path, theirs: Path, allowed: list[tuple[int, int]]) -> int | None:
    """Offset of the first byte outside the `allowed` ranges in which two files of one size differ,
    or None.
    """
    at = 0
    with open(mine, "rb") as first, open(theirs, "rb") as second:
        for start, end in [*allowed, (mine.stat().st_size, 0)]:
            first.seek(at)
            second.seek(at)
            while at < start:
                here, there = (file.read(min(CHUNK, start - at)) for file in (first, second))
                if here != there:
                    differing = (i for i, (a, b) in enumerate(zip(here, there)) if a != b)
                    return at + next(differing, min(len(here), len(there)))
                at += len(here)
            at = max(at, end)
    return None
