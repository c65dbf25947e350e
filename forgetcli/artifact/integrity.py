"""Whether an edited folder is exactly what its manifest says.

The manifest is not signed: this check shows accidents, not a forger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.listing import Listing, listing, unsafe_mode
from forgetcli.artifact.manifest import (
    CARD,
    GIVE_EDITED,
    MANIFEST,
    RECIPE,
    REPORT,
    SIGNATURE,
    Manifest,
    base_uri,
    is_hubs,
)
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError, ModelError, counted
from forgetcli.storage.files import (
    files_digest,
    is_regular,
    open_regular,
    refuse_missing_folder,
    sha256_file,
)
from forgetcli.storage.safetensors import WeightFile

COMPARED_BYTES = 4 << 20  # bytes of two files that are compared at a time
UNSIGNED = (
    "who made it: the manifest is not signed, so it shows accidents, "
    "not a forger who rewrites files and manifest together"
)
EFFECT = "that the concept is gone: 'forget eval' measures that"


@dataclass(frozen=True)
class Problem:
    """One difference between a folder and its manifest.

    Attributes:
        file: path of the file, relative to the folder.
        what: the difference, as the rest of a sentence that begins with the file.
    """

    file: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        ok: there is no problem; what is not proved does not count against it.
        problems: every difference.
        proved, not_proved: statements in plain words.
        edited: tensors that the manifest lists as edited.
        files: files of the folder, the manifest included.
    """

    ok: bool
    problems: list[Problem]
    proved: list[str]
    not_proved: list[str]
    edited: int
    files: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(folder: str | Path | EditedModel, base: str | Path | None = None) -> Verdict:
    """Check that a folder is exactly what its manifest says, and that nothing but the listed
    tensors differs from the base.

    Args:
        folder: the folder, or the model in it if it was opened before.
        base: the unedited model; by default the one that the manifest names, if it is on this
            machine (nothing is downloaded). A model that was opened before knows its own.
    Raises:
        ModelError: there is no such folder, or `base` was given and cannot be had. Whatever is
            wrong *in* the folder is a problem in the verdict, not an error.
    """
    edited = folder if isinstance(folder, EditedModel) else EditedModel(Path(folder), base)
    refuse_missing_folder(edited.folder, GIVE_EDITED)
    found = listing(edited.folder)
    present = list(found.files)
    try:
        manifest = edited.manifest
    except ModelError as fault:
        nothing = ["anything: without a manifest there is nothing to compare with"]
        return Verdict(False, [problem(MANIFEST, fault.message)], [], nothing, 0, len(present))
    against = edited.base_or_fault
    files = _check_files(edited.folder, manifest, found)
    claims = _check_claims(manifest)
    tensors = _check_tensors(edited, found)
    modes = _check_modes(edited.folder, found)
    problems = [*files, *modes, *claims, *tensors]
    proved = []
    if not files:
        proved.append(
            f"digests of all {counted(len(manifest.subjects), 'file')} are those in {MANIFEST}; "
            "none is missing, none was added"
        )
    if not tensors and manifest.edited:
        proved.append(
            f"digests of the {counted(len(manifest.edited), 'edited tensor')} are those recorded"
        )
    not_proved = [UNSIGNED, EFFECT] if manifest.edited else [UNSIGNED]
    if isinstance(against, ForgetError):
        missing = (
            f"that nothing else changed: the base '{manifest.base}' cannot be had here "
            f"({against.message}); name it with --base"
        )
        not_proved.insert(0, missing)
    else:
        differences = _compare(edited.folder, manifest, against, found)
        problems += differences
        if not differences and not claims:
            proved.append(_same_as_base(manifest, against))
        newer = sorted(against.files.keys() - manifest.base_files.keys())
        if newer:
            not_proved.insert(0, _unknown_files(newer))
    if any(map(is_hubs, present)):
        missing = (
            "anything about .gitattributes and .cache, which the hub adds: no loader reads them"
        )
        not_proved.insert(0, missing)
    return Verdict(not problems, problems, proved, not_proved, len(manifest.edited), len(present))


def _unknown_files(paths: Sequence[str]) -> str:
    return (
        f"anything about {counted(len(paths), 'file')} that the base did not have when it was "
        f"edited: {', '.join(paths[:5])}"
    )


def _same_as_base(manifest: Manifest, base: Base) -> str:
    digest = f"(digest {manifest.base_digest[:12]}…)"
    if manifest.edited:
        return (
            f"every other file and byte is that of the base '{base.id}' {digest}, "
            "the headers of edited files included"
        )
    return (
        "no tensor is edited: every file but forget's own is that of the base "
        f"'{base.id}' {digest}, byte for byte"
    )


def problem(file: str, what: str) -> Problem:
    """A difference; a file name that is not valid text is escaped."""
    name = file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return Problem(name, what)


def _check_files(folder: Path, manifest: Manifest, found: Listing) -> list[Problem]:
    present = found.files
    problems = [problem(path, "is a link that leads out of the folder") for path in found.outside]
    problems += [
        problem(path, "is missing")
        for path in sorted(manifest.subjects.keys() - set(present))
        if not found.is_outside(path)
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
        except (ModelError, OSError) as fault:
            problems.append(problem(path, f"cannot be read: {getattr(fault, 'message', fault)}"))
    return problems


def _check_modes(folder: Path, found: Listing) -> list[Problem]:
    """Files that anybody can change or that run with their owner's rights; folders that anybody can
    write to. The folder itself is called ".".
    """
    modes = {path: unsafe_mode(folder / path) for path in (".", *found.folders, *found.files)}
    return [problem(path, what) for path, what in modes.items() if what and not is_hubs(path)]


def _check_claims(manifest: Manifest) -> list[Problem]:
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
    for path in sorted(set(manifest.written) - manifest.subjects.keys()):
        problems.append(
            problem(path, "is listed as forget's own, but is no file that the manifest has")
        )
    for path in sorted({MANIFEST, SIGNATURE} & manifest.subjects.keys()):
        problems.append(problem(path, "is listed, though it is made from the list"))
    if manifest.listed_recipe != manifest.recipe_sha256:
        problems.append(
            problem(MANIFEST, "its recipe is not the one that it lists as a dependency")
        )
    if manifest.base_uri != base_uri(manifest.base_id, manifest.base_revision):
        problems.append(problem(MANIFEST, "its address of the base is not that of the base"))
    if files_digest(manifest.base_files) != manifest.base_digest:
        problems.append(
            problem(MANIFEST, "its digest of the base does not fit its list of the base's files")
        )
    return problems


def _check_tensors(edited: EditedModel, found: Listing) -> list[Problem]:
    problems = []
    seen: set[tuple[str, str, int | None]] = set()
    for tensor in edited.manifest.edited:
        if found.is_outside(tensor.file):
            continue  # a problem already; nothing outside is read
        place = (tensor.file, tensor.key, tensor.third)
        if place in seen:
            problems.append(problem(tensor.file, f"tensor '{tensor.key}' is listed twice"))
            continue
        seen.add(place)
        try:
            what = _tensor_problem(edited.weight_file(tensor.file), tensor, tensor.after)
        except (ForgetError, OSError) as fault:
            what = f"cannot be read: {getattr(fault, 'message', fault)}"
        if what:
            problems.append(problem(tensor.file, what))
    return problems


def _tensor_problem(weights: WeightFile, tensor: EditedTensor, digest: str) -> str | None:
    site = tensor.site(weights.sites)
    if site is None:
        return f"tensor '{tensor.key}' is not where the manifest says"
    if hashlib.sha256(weights.read_bytes(site)).hexdigest() != digest:
        return f"tensor '{tensor.key}' does not have the recorded digest"
    return None


def _compare(folder: Path, manifest: Manifest, base: Base, found: Listing) -> list[Problem]:
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
        elif path not in manifest.written and not found.is_outside(path):
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
    mine = folder / path
    theirs = base.folder / path
    if not is_regular(mine):
        return ["differs from the base: no regular file"]
    if mine.stat().st_size != theirs.stat().st_size:
        return [f"differs from the base: {mine.stat().st_size} bytes, not {theirs.stat().st_size}"]
    tensors = [tensor for tensor in manifest.edited if tensor.file == path]
    weights = base.weight_file(path)
    faults = (_tensor_problem(weights, tensor, tensor.before) for tensor in tensors)
    wrong = [f"in the base, {fault}" for fault in faults if fault]
    at = _first_difference(mine, theirs, sorted((tensor.start, tensor.end) for tensor in tensors))
    if at is None:
        return wrong
    sites = weights.sites.values() if path.endswith(".safetensors") else ()
    inside = [site.key for site in sites if site.start <= at < site.end]
    place = f"tensor '{inside[0]}'" if inside else f"byte {at}"
    return [*wrong, f"differs from the base in {place}, which is not listed as edited"]


def _first_difference(mine: Path, theirs: Path, allowed: list[tuple[int, int]]) -> int | None:
    """Offset of the first byte outside the `allowed` ranges in which two files of one size differ,
    or None.
    """
    at = 0
    size = mine.stat().st_size
    # The ranges are the manifest's: they may lie behind the end, where a read gives nothing.
    inside = [(min(start, size), min(end, size)) for start, end in allowed]
    with open_regular(mine) as first, open_regular(theirs) as second:
        for start, end in [*inside, (size, 0)]:
            first.seek(at)
            second.seek(at)
            while at < start:
                here, there = (
                    file.read(min(COMPARED_BYTES, start - at)) for file in (first, second)
                )
                if here != there:
                    differing = (i for i, (a, b) in enumerate(zip(here, there)) if a != b)
                    return at + next(differing, min(len(here), len(there)))
                if not here:  # the files became shorter meanwhile
                    return at
                at += len(here)
            at = max(at, end)
    return None
