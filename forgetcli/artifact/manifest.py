"""The shape of ``forget.provenance.json``: an in-toto Statement v1 with the SLSA provenance v1
predicate.

The same models read and write it. Fields that a later version adds are ignored; fields that are
missing or of another type make the manifest invalid. An optional field that is not set is not
written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import single_file
from forgetcli.errors import ModelError
from forgetcli.storage import json
from forgetcli.storage.atomic import MARKER
from forgetcli.storage.files import inside, read_regular, refuse_missing_folder

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.storage.safetensors import TensorSite

MANIFEST = MARKER
REPORT = "forget.report.json"
RECIPE = "recipe.toml"
CARD = "README.md"
# The signature is not among the subjects: it is computed from them.
SIGNATURE = "forget.signature.json"
GIVE_EDITED = "give the folder that 'forget apply' wrote"
# Bytes of a manifest, ledger or report. Those of a model of 20,000 tensors have some 10 MB.
LARGEST_FILE = json.LARGEST_FILE

StatementType = Literal["https://in-toto.io/Statement/v1"]
PredicateType = Literal["https://slsa.dev/provenance/v1"]
BuildType = Literal["urn:forgetcli:apply:v1"]
STATEMENT_TYPE: StatementType = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: PredicateType = "https://slsa.dev/provenance/v1"
BUILD_TYPE: BuildType = "urn:forgetcli:apply:v1"
BUILDER = "urn:forgetcli:apply"
# The name of `checkpoint.files_digest` among in-toto's digest algorithms.
FILES_DIGEST = "forgetFiles"
# The dependency that is the whole base. Its files are named base/PATH.
BASE = "base"


def is_hubs(path: str) -> bool:
    """Whether the hub adds this file to uploaded or downloaded models; no loader reads it."""
    return path == ".gitattributes" or path.startswith(".cache/huggingface/")


def base_uri(base_id: str, revision: str | None) -> str | None:
    """The public address of a base, as a package URL; None if it has none."""
    if base_id == "demo":
        # An identifier in published manifests, not a path: it stays when the files move.
        return "pkg:pypi/forgetcli#forgetcli/demo/model"
    return f"pkg:huggingface/{base_id}@{revision}" if revision else None


def _plain_path(path: str) -> str:
    """A manifest may come from anyone: its paths must not lead out of the folder."""
    parts = path.split("/")
    strange = "\\" in path or "\0" in path or re.match(r"[A-Za-z]:", path)
    if strange or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a plain relative path")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise ValueError(f"{path!r} has control characters")
    return path


def _run_details(details: dict[str, Any]) -> dict[str, Any]:
    """Both parts are tables, so that every reader can look something up in them."""
    for name in ("builder", "metadata"):
        if not isinstance(details.get(name, {}), dict):
            raise ValueError(f"{name} is no table")
    return details


RelativePath = Annotated[str, AfterValidator(_plain_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """One JSON object of the manifest."""

    model_config = ConfigDict(frozen=True, strict=True, populate_by_name=True)


class Sha256Digest(Part):
    """A digest, by the algorithm's name."""

    sha256: Sha256


class FileDigest(Part):
    """A file and its digest: in-toto's resource descriptor."""

    name: RelativePath
    digest: Sha256Digest


class Dependency(Part):
    """Something that went into the edit, and its digest."""

    name: str
    uri: str | None = None
    digest: dict[str, Sha256]


class EditedTensor(Part):
    """One tensor whose bytes differ from the base's.

    Attributes:
        component, parameter: as the model has it in memory.
        file, key, dtype, start, end: where it lies; bytes, absolute, end exclusive.
        before, after: SHA-256 of its bytes in the base and here.
        error: ‖stored − exact‖_F / ‖exact − base‖_F, exact being the value before rounding.
        third: of a tensor that holds q, k and v one below the other, which of the three; None for a
            whole tensor.
    """

    component: str
    parameter: str
    file: RelativePath
    key: str
    dtype: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    before: Sha256
    after: Sha256
    error: float = Field(allow_inf_nan=False)
    third: int | None = Field(default=None, ge=0, le=2)

    def site(self, header: Mapping[str, TensorSite]) -> TensorSite | None:
        """The tensor's place in a file with this header; None if it is not where it was written."""
        whole = header.get(self.key)
        if whole is None or not has_part(whole, self.third):
            return None
        site = whole.part(self.third)
        moved = (site.start, site.end, site.dtype) != (self.start, self.end, self.dtype)
        return None if moved else site


def has_part(whole: TensorSite, third: int | None) -> bool:
    """Whether a tensor has the requested part: all of it, or one of q, k and v stacked in it."""
    return third is None or (len(whole.shape) > 0 and whole.shape[0] % 3 == 0)


class ModelName(Part):
    """The unedited model, as the user named it."""

    id: str
    revision: str | None = None


class ListedEdit(Part):
    """One of several edits that a folder holds."""

    number: int
    method: str
    parameters: dict[str, Any]
    recipe: FileDigest


class External(Part):
    """The request of the user.

    `edits` is set only by `forget revert`: the edits that are left. It is not read again: the
    ledger has more of each.
    """

    model: ModelName
    recipe: FileDigest
    method: str
    parameters: dict[str, Any]
    edits: Any = None


class Internal(Part):
    """The changed tensors, and the files that forget added."""

    edited: list[EditedTensor]
    written: list[RelativePath]


class BuildDefinition(Part):
    """SLSA's build definition: everything that a repeated run must have in common."""

    build_type: BuildType = Field(alias="buildType")
    external: External = Field(alias="externalParameters")
    internal: Internal = Field(alias="internalParameters")
    dependencies: list[Dependency] = Field(alias="resolvedDependencies")


class Predicate(Part):
    """SLSA's provenance predicate."""

    build: BuildDefinition = Field(alias="buildDefinition")
    run_details: Annotated[dict[str, Any], AfterValidator(_run_details)] = Field(alias="runDetails")


class Statement(Part):
    """The whole file."""

    type: StatementType = Field(alias="_type")
    predicate_type: PredicateType = Field(alias="predicateType")
    subject: list[FileDigest]
    predicate: Predicate


@dataclass(frozen=True)
class Manifest:
    """What the manifest of an edited folder says.

    Attributes:
        base_id, base_revision, base_digest: the unedited model, as `checkpoint.Base` has it.
        base_files: its files, path → SHA-256.
        recipe_path, recipe_sha256: the recipe's copy in the folder.
        method, parameters: how it was edited.
        edited: the tensors that were changed.
        written: files that forget added: report, recipe, model card.
        subjects: every file of the folder but the manifest, path → SHA-256.
        materials: the second moments that went in, name → SHA-256.
        run_details: times, versions, machine.
        base_uri: the base's address, if the manifest has one.
        listed_recipe: the digest that the recipe has among the dependencies; None if it is none.
        edits: the remaining edits, in a folder that `forget revert` has written.
    """

    base_id: str
    base_revision: str | None
    base_digest: str
    base_files: dict[str, str]
    recipe_path: Path
    recipe_sha256: str
    method: str
    parameters: dict[str, Any]
    edited: tuple[EditedTensor, ...]
    written: tuple[str, ...]
    subjects: dict[str, str]
    materials: dict[str, str]
    run_details: dict[str, Any]
    base_uri: str | None = None
    listed_recipe: str | None = None
    edits: Any = None

    @property
    def base(self) -> str:
        """The name by which `checkpoint.resolve` finds the base."""
        return f"{self.base_id}@{self.base_revision}" if self.base_revision else self.base_id

    def resolve_base(self, named: str | Path | None = None, *, download: bool = True) -> Base:
        """The unedited model.

        A single file gets the settings of its edited copy, so that both generate under the same
        conditions.

        Args:
            named: what the user says is the unedited model; by default the one that is recorded.
        Raises:
            ModelError: those of `checkpoint.resolve`.
        """
        config = self.recipe_path.parent / single_file.CONFIG
        return checkpoint.resolve(
            named or self.base, config=config if config.is_dir() else None, download=download
        )


def load(folder: str | Path) -> Manifest:
    """The manifest of a folder that forget made.

    Raises:
        ModelError: model.not-found: there is no such folder; model.not-edited: it has no manifest;
            model.manifest: the manifest is damaged, or not of forget's shape.
    """
    folder = Path(folder)
    refuse_missing_folder(folder, GIVE_EDITED)
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(
            "model.not-edited",
            f"{folder} was not made by forget: it has no {MANIFEST}",
            GIVE_EDITED,
        )
    try:
        data = read_regular(inside(folder, path), LARGEST_FILE)
    except OSError as fault:
        raise _invalid(path, fault.strerror or fault) from fault
    except ModelError as fault:
        raise _invalid(path, fault.message) from fault
    return parse(data, folder, path)


def parse(data: bytes, folder: Path, name: str | Path) -> Manifest:
    """A manifest from its bytes.

    Args:
        folder: where the files that it speaks of are.
        name: what errors call it.
    Raises:
        ModelError: model.manifest: it is damaged, or not of forget's shape.
    """
    try:
        # Limits, and keys that occur twice; the schema is checked on the text, in which a list
        # cannot be taken for a tuple.
        json.decode(data, nan=False)
        return _manifest(folder, Statement.model_validate_json(data))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _invalid(name, f"{where}: {first['msg']}" if where else first["msg"]) from fault
    except ValueError as fault:
        raise _invalid(name, fault) from fault


def _invalid(name: str | Path, what: object) -> ModelError:
    return ModelError(
        "model.manifest", f"{name} is not a valid manifest: {what}", "apply the recipe again"
    )


def _manifest(folder: Path, statement: Statement) -> Manifest:
    build = statement.predicate.build
    dependencies = _table([(d.name, d.digest) for d in build.dependencies])
    inside = f"{BASE}/"
    special = (BASE, RECIPE)
    try:
        return Manifest(
            base_id=build.external.model.id,
            base_revision=build.external.model.revision,
            base_digest=dependencies[BASE][FILES_DIGEST],
            base_files={
                _plain_path(n.removeprefix(inside)): d["sha256"]
                for n, d in dependencies.items()
                if n.startswith(inside)
            },
            recipe_path=folder / build.external.recipe.name,
            recipe_sha256=build.external.recipe.digest.sha256,
            method=build.external.method,
            parameters=build.external.parameters,
            edited=tuple(build.internal.edited),
            written=tuple(build.internal.written),
            subjects=_table([(s.name, s.digest.sha256) for s in statement.subject]),
            materials={
                n: d["sha256"]
                for n, d in dependencies.items()
                if n not in special and not n.startswith(inside)
            },
            run_details=statement.predicate.run_details,
            base_uri=next((d.uri for d in build.dependencies if d.name == BASE), None),
            listed_recipe=dependencies.get(RECIPE, {}).get("sha256"),
            edits=build.external.edits,
        )
    except KeyError as fault:
        raise ValueError(f"resolvedDependencies lack {fault}") from fault


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
