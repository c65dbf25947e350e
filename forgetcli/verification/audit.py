"""`verify` in full: beyond files and bytes, whether headers, report, recipe and signature are
right, and the edit can be repeated.

`provenance.verify` compares the folder with its manifest and with the base. Each function here adds
one question to that, and
answers it as a `Finding`; all of them together are the verdict.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.artifact import provenance
from forgetcli.artifact.manifest import MANIFEST, RECIPE, REPORT, SIGNATURE, EditedTensor, Manifest
from forgetcli.artifact.provenance import UNSIGNED, Verdict
from forgetcli.errors import ForgetError, ModelError
from forgetcli.progress import Observer, Silent
from forgetcli.storage.files import walk_files
from forgetcli.storage.safetensors import TensorSite, read_header, read_tensor
from forgetcli.verification import signature as signatures

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.recipe import Recipe

# ‖stored − rebuilt‖ / ‖stored − base‖ that other hardware, threads or library versions may cause:
# they round otherwise, and the
# refinement carries that on. Chosen for machines not at hand: two threads for one made 4e-5
# (docs/checkpoints.md), as many give the same bytes (tests).
TOLERANCE = 0.05
RUN_ERROR = {
    "float16": 2**-11,
    "bfloat16": 2**-8,
}  # of a weight in the dtype that the model ran in, relative
SHORT = 60  # characters of a list that are told whole
SLACK = 1e-6  # relative: sums of float64 in another order, JSON


@dataclass(frozen=True)
class Finding:
    """What one question brought to light; any of the three may be empty."""

    problems: list[dict[str, str]] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)


def verify(
    folder: str | Path,
    base: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    rebuild: bool = False,
    signature: str | Path | None = None,
    key: str | Path | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """Check an edited folder, and say what that proves.

    Args:
        base: the unedited model; by default the one that the manifest names, if it is on this
            machine.
        recipe: the folder is to have been made by exactly this one.
        rebuild: repeat the edit, with nothing from the cache, and compare the weights.
        signature, key: a signature of the folder (by default the one in it) and the public key to
            check it with.
    Raises:
        ForgetError: what was asked for cannot be done: no such folder, base, recipe, key or
            signature, no package to check it.
            Whatever is wrong *in* the folder is a problem in the verdict.
    """
    folder = Path(folder)
    verdict = provenance.verify(folder, base=base)
    try:
        manifest = provenance.load(folder)
    except ForgetError:
        return verdict  # it says so already
    against = provenance.find_base(manifest, base)
    findings = [headers(folder), report(folder, manifest, against)]
    if recipe is not None:
        findings.append(same_recipe(manifest, recipes.load(recipe)))
    if rebuild:
        findings.append(rebuilt(folder, manifest, against, observer or Silent()))
    if key is not None or signature is not None:
        findings.append(signed(folder, signature, key))
    elif (folder / SIGNATURE).exists():
        findings.append(
            Finding(
                not_proved=[
                    f"the signature in {SIGNATURE}: no public key was given to check it with (--key)"
                ]
            )
        )
    problems = verdict.problems + [p for finding in findings for p in finding.problems]
    proved = verdict.proved + [line for finding in findings for line in finding.proved]
    missing = [line for finding in findings for line in finding.not_proved] + verdict.not_proved
    if any(signatures.PROVED in line for line in proved):
        missing = [line for line in missing if line != UNSIGNED]
    return replace(verdict, ok=not problems, problems=problems, proved=proved, not_proved=missing)


def headers(folder: Path) -> Finding:
    """Whether every safetensors file is one: its header is valid, and its tensors fill it without
    hole or overlap.
    """
    files = [path for path in walk_files(folder) if path.endswith(".safetensors")]
    problems = []
    for path in files:
        try:
            read_header(folder, path)
        except ForgetError as fault:
            problems.append(provenance.problem(path, fault.message))
    return Finding(
        problems, [] if problems else [f"the headers of all {len(files)} weight files are valid"]
    )


def report(folder: Path, manifest: Manifest, base: Base | ForgetError) -> Finding:
    """Whether ‖Δ‖/‖W‖ and the rounding error of each site, as reported, are what base and stored
    tensors give.
    """
    try:
        rows = json.loads((folder / REPORT).read_text(encoding="utf-8"))["sites"]
        reported = {row["name"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        return Finding(
            [
                provenance.problem(
                    REPORT,
                    f"has no sites that could be compared with the tensors ({type(fault).__name__})",
                )
            ]
        )
    tensors = {name: tensor for name in reported if (tensor := _tensor_of(name, manifest))}
    problems = [
        provenance.problem(REPORT, f"reports on '{name}', which is not listed as edited")
        for name in reported
        if name not in tensors
    ]
    covered = {(t.component, t.parameter) for t in tensors.values()}
    problems += [
        provenance.problem(
            REPORT, f"says nothing of '{t.component}/{t.parameter}', which is listed as edited"
        )
        for t in _first_of_each(manifest)
        if (t.component, t.parameter) not in covered
    ]
    if not tensors:
        return Finding(problems)
    if isinstance(base, ForgetError):
        return Finding(
            problems,
            not_proved=["that the report's figures are those of the tensors: that needs the base"],
        )
    ran_in = str(manifest.run_details.get("metadata", {}).get("dtype", "")).removeprefix("torch.")
    for name, tensor in tensors.items():
        try:
            what = _figure_problem(folder, base, tensor, reported[name], RUN_ERROR.get(ran_in, 0.0))
        except (ForgetError, OSError) as fault:
            what = f"cannot be compared with the tensors: {getattr(fault, 'message', fault)}"
        if what:
            problems.append(provenance.problem(REPORT, f"'{name}': {what}"))
    return Finding(
        problems,
        []
        if problems
        else [
            f"the reported size of the change at all {len(tensors)} sites is that of the tensors"
        ],
    )


def _figure_problem(
    folder: Path, base: Base, tensor: EditedTensor, row: Mapping[str, Any], ran_in: float
) -> str | None:
    W, stored = (
        read_tensor(place, _place(place, tensor)).double() for place in (base.folder, folder)
    )
    found = float((stored - W).norm() / W.norm())
    told, error = row.get("delta_rel"), row.get("stored_error")
    if not all(
        isinstance(figure, int | float) and math.isfinite(figure) for figure in (told, error)
    ):
        return "delta_rel or stored_error is no number"
    if not math.isclose(error, tensor.error, rel_tol=SLACK, abs_tol=1e-12):
        return f"stored_error is {error:.3g} there and {tensor.error:.3g} in {MANIFEST}"
    # ‖stored − W‖ lies within ‖stored − wanted‖ = error · ‖Δ‖ of ‖Δ‖.
    if abs(found - told) > (error + ran_in + SLACK) * max(found, told):
        return f"‖Δ‖/‖W‖ is {told:.6g} there, but {found:.6g} by the tensors (rounding accounts for {error:.1g} of it)"
    return None


def _place(folder: Path, tensor: EditedTensor) -> TensorSite:
    site = tensor.site(read_header(folder, tensor.file))
    if site is None:
        raise ModelError(
            "model.changed",
            f"tensor '{tensor.key}' is not where the manifest says",
            "apply the recipe again",
        )
    return site


def _tensor_of(name: str, manifest: Manifest) -> EditedTensor | None:
    """The edited tensor that a report's site names: a layer, or a parameter in full, with or
    without its component.
    """
    for tensor in _first_of_each(manifest):
        full = f"{tensor.component}.{tensor.parameter}"
        if name in (
            tensor.parameter,
            full,
            tensor.parameter.removesuffix(".weight"),
            full.removesuffix(".weight"),
        ):
            return tensor
    return None


def _first_of_each(manifest: Manifest) -> Iterator[EditedTensor]:
    """The form of each edited parameter that loaders read by default; the report is on these."""
    seen = set()
    for tensor in manifest.edited:
        if (tensor.component, tensor.parameter) not in seen:
            seen.add((tensor.component, tensor.parameter))
            yield tensor


def same_recipe(manifest: Manifest, recipe: Recipe) -> Finding:
    """Whether the folder was made by exactly this recipe, by its bytes; every value that differs,
    if not, of lists what the other one lacks.
    """
    try:
        bytes_there = manifest.recipe_path.read_bytes()
    except OSError as fault:
        return Finding([provenance.problem(RECIPE, f"cannot be read: {fault.strerror or fault}")])
    if bytes_there == recipe.raw and manifest.recipe_sha256 == recipe.sha256:
        return Finding(
            proved=[
                f"it was made by the recipe {recipe.source}, byte for byte (SHA-256 {recipe.sha256[:12]}…)"
            ]
        )
    try:
        there = recipes.parse(bytes_there, manifest.recipe_path)
    except ForgetError as fault:
        return Finding(
            [
                provenance.problem(
                    RECIPE, f"is not {recipe.source}, and cannot be read: {fault.message}"
                )
            ]
        )
    differing = [
        f"is not {recipe.source}: {key} is {a} there, {b} in that"
        for key, a, b in _differences(_values(there), _values(recipe))
    ]
    return Finding(
        [provenance.problem(RECIPE, what) for what in differing]
        or [
            provenance.problem(
                RECIPE,
                f"is not {recipe.source}: other bytes (comments, spacing), though every value is the same",
            )
        ]
    )


def _values(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe, dotted key → value, its method's defaults filled in."""
    parameters = (
        methods.get(recipe.method)
        .Parameters.model_validate(recipe.parameters)
        .model_dump(mode="json")
    )
    whole = recipe.model_dump(
        mode="json",
        exclude={
            "raw",
            "source",
            "overrides",
            "warnings",
            "parameters",
            "methods",
            "name",
            "description",
        },
    )
    return dict(_flat({**whole, **parameters}))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list) and any(isinstance(part, dict | list) for part in value)
        else None
    )
    if inside is None:
        yield path, value
    else:
        for key, part in inside:
            yield from _flat(part, f"{path}.{key}" if path else str(key))


def _differences(
    here: Mapping[str, Any], there: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    for key in [*here, *(key for key in there if key not in here)]:
        if here.get(key) != there.get(key):
            yield (
                key,
                *(
                    _told(side[key], other.get(key)) if key in side else "absent"
                    for side, other in ((here, there), (there, here))
                ),
            )


def _told(value: Any, other: Any) -> str:
    """A value in few words: of a long list only its first entry that the other one lacks, and how
    many more those are.
    """
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list) or len(text) <= SHORT:
        return text
    alone = [entry for entry in value if not isinstance(other, list) or entry not in other]
    first = json.dumps(alone[0] if alone else value[0], ensure_ascii=False)
    return (
        f"[{first} and {len(alone) - 1} more that differ, of {len(value)}]"
        if len(alone) > 1
        else f"[{first}, … {len(value)} in all]"
    )


def rebuilt(
    folder: Path, manifest: Manifest, base: Base | ForgetError, observer: Observer
) -> Finding:
    """Whether the manifest's recipe, method, seed, device and dtype give these weights again.

    Raises:
        ForgetError: the base is not here, or the edit cannot be made on this machine;
            verify.reverted: it was made to a model with
            edits that `forget revert` has taken out, or are not in the manifest's base.
    """
    from forgetcli import models
    from forgetcli.artifact import ledger
    from forgetcli.editing.moment_cache import MomentCache
    from forgetcli.pipeline import apply

    if isinstance(base, ForgetError):
        raise base
    edits = ledger.load(folder)
    if edits and edits.edits[-1].applied_to != manifest.base_digest:
        raise ForgetError(
            "verify.reverted",
            f"edit {edits.edits[-1].number} of {folder} cannot be repeated: it was made to a model that held "
            "other edits, and 'forget revert' has changed which there are",
            "verify it without --rebuild",
        )
    recipe = recipes.load(manifest.recipe_path).on(models.family_of(base.settings))
    parameters = (
        methods.get(recipe.method)
        .Parameters.model_validate(recipe.parameters)
        .model_dump(mode="json")
    )
    told = [
        f"{key} is {a} in {MANIFEST}, {b} by the recipe"
        for key, a, b in _differences(
            dict(_flat({"method": manifest.method, **manifest.parameters})),
            dict(_flat({"method": recipe.method, **parameters})),
        )
    ]
    ran = manifest.run_details.get("metadata", {})
    device, elsewhere = _device(ran.get("device"))
    with tempfile.TemporaryDirectory(prefix="forget-rebuild-") as place:
        again = apply.apply(
            recipe,
            model=base.reference,
            config=base.config,
            output=Path(place) / "edited",
            device=device,
            dtype=str(ran["dtype"]).removeprefix("torch.") if "dtype" in ran else None,
            strict=False,
            observer=observer,
            cache=MomentCache(Path(place) / "cache"),
        ).output
        made = {(t.file, t.key, t.third): t for t in provenance.load(again).edited}
        problems = [provenance.problem(MANIFEST, what) for what in told]
        problems += [
            provenance.problem(
                t.file, f"'{t.key}' is listed as edited, but the recipe does not edit it here"
            )
            for t in manifest.edited
            if (t.file, t.key, t.third) not in made
        ]
        problems += [
            provenance.problem(
                file, f"'{key}' is not listed as edited, but the recipe edits it here"
            )
            for file, key, third in made
            if (file, key, third) not in {(t.file, t.key, t.third) for t in manifest.edited}
        ]
        shared = [t for t in manifest.edited if (t.file, t.key, t.third) in made]
        differing = [t for t in shared if made[t.file, t.key, t.third].after != t.after]
        off = {t: _distance(folder, again, base, t) for t in differing}
    problems += [
        provenance.problem(
            t.file,
            f"'{t.key}' is not what the recipe gives here: they differ by {distance:.2g} of the change "
            f"(tolerance {TOLERANCE})",
        )
        for t, distance in off.items()
        if not distance <= TOLERANCE
    ]
    if problems:
        return Finding(problems)
    if not differing:
        return Finding(
            proved=[
                f"the edit, repeated here, gives all {len(shared)} tensors again, byte for byte"
            ],
            not_proved=elsewhere,
        )
    return Finding(
        proved=[
            f"the edit, repeated here, gives the {len(shared)} tensors again to within {max(off.values()):.2g} of the change "
            f"(tolerance {TOLERANCE})"
        ],
        not_proved=[
            *elsewhere,
            f"that the edit gives the same bytes: {len(differing)} tensors differ within the tolerance, as other hardware, "
            "thread counts or library versions make them",
        ],
    )


def _device(recorded: object) -> tuple[str | None, list[str]]:
    """The device that the edit was made on, or None if there is none here, and what is then not
    proved.
    """
    from forgetcli.device import pick_device

    if not isinstance(recorded, str):
        return None, []
    try:
        pick_device(recorded)
    except ForgetError:
        return None, [
            f"that it comes out so on '{recorded}', where the edit was made: there is none here"
        ]
    return recorded, []


def _distance(folder: Path, again: Path, base: Base, tensor: EditedTensor) -> float:
    mine, theirs, before = (
        read_tensor(place, _place(place, tensor)).double() for place in (folder, again, base.folder)
    )
    return float((mine - theirs).norm() / (theirs - before).norm().clamp_min(1e-300))


def signed(folder: Path, signature: str | Path | None, key: str | Path | None) -> Finding:
    """Whether every file is as the holder of a key signed it.

    Raises:
        ForgetError: no key, no signature, no package, or a key that is none.
    """
    path = Path(signature) if signature is not None else folder / SIGNATURE
    wrong = signatures.check(folder, path, key)
    if wrong:
        return Finding([provenance.problem(path.name, what) for what in wrong])
    return Finding(
        proved=[f"{signatures.PROVED} {key}: every file, the manifest included, is as it was then"],
        not_proved=[
            "who holds that key, and that what they say in the manifest is true (--rebuild repeats the edit)"
        ],
    )
