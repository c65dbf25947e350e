"""The schema of ``forget.provenance.json``: an in-toto Statement v1 with the SLSA provenance v1
predicate.

The same models read and write the file. Fields that a later version adds are ignored. Fields that
are missing or have another type make the manifest invalid. Optional fields without a value are not
written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from forgetcli.storage.safetensors import TensorSite

StatementType = Literal["https://in-toto.io/Statement/v1"]
PredicateType = Literal["https://slsa.dev/provenance/v1"]
BuildType = Literal["urn:forgetcli:apply:v1"]
STATEMENT_TYPE: StatementType = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: PredicateType = "https://slsa.dev/provenance/v1"
BUILD_TYPE: BuildType = "urn:forgetcli:apply:v1"
BUILDER = "urn:forgetcli:apply"


def plain_path(path: str) -> str:
    """Refuse a path that could lead out of the folder, because anyone can write a manifest.

    Raises:
        ValueError: the path is not a plain relative path.
    """
    parts = path.split("/")
    is_unusual = "\\" in path or "\0" in path or re.match(r"[A-Za-z]:", path)
    if is_unusual or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a plain relative path")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise ValueError(f"{path!r} has control characters")
    return path


def _run_details(details: dict[str, Any]) -> dict[str, Any]:
    """Require that both parts are tables, so that readers can look up keys in them."""
    for name in ("builder", "metadata"):
        if not isinstance(details.get(name, {}), dict):
            raise ValueError(f"{name} is not a table")
    return details


RelativePath = Annotated[str, AfterValidator(plain_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """One JSON object of the manifest."""

    model_config = ConfigDict(frozen=True, strict=True, populate_by_name=True)


class Sha256Digest(Part):
    """A digest with the name of its algorithm."""

    sha256: Sha256


class FileDigest(Part):
    """A file and its digest (in-toto's resource descriptor)."""

    name: RelativePath
    digest: Sha256Digest


class Dependency(Part):
    """An input of the edit, and its digest."""

    name: str
    uri: str | None = None
    digest: dict[str, Sha256]


class EditedTensor(Part):
    """One tensor whose bytes differ from the base model's.

    Attributes:
        component, parameter: the tensor's component and its parameter name in memory.
        file, key, dtype: the tensor's file, its name in the file and its dtype.
        start, end: its range of bytes in the file; end is exclusive.
        before, after: SHA-256 of its bytes in the base model and in the edited model.
        error: ‖stored − exact‖_F / ‖exact − base‖_F, where exact is the value before rounding.
        third: 0, 1 or 2 for the q, k or v part of a tensor in which the three are stacked; None for
            a whole tensor.
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
        """The tensor's location in a file with this header; None if it is not where it was."""
        whole = header.get(self.key)
        if whole is None or not has_part(whole, self.third):
            return None
        site = whole.part(self.third)
        moved = (site.start, site.end, site.dtype) != (self.start, self.end, self.dtype)
        return None if moved else site


def has_part(whole: TensorSite, third: int | None) -> bool:
    """Whether a tensor can have the part: the whole tensor, or one of the stacked q, k and v."""
    return third is None or (len(whole.shape) > 0 and whole.shape[0] % 3 == 0)


class ModelName(Part):
    """The unedited model, by the name that the user gave."""

    id: str
    revision: str | None = None


class ListedEdit(Part):
    """One of several edits in a folder."""

    number: int
    method: str
    parameters: dict[str, Any]
    recipe: FileDigest


class External(Part):
    """The request of the user.

    Only `forget revert` sets `edits`, to the remaining edits. It is not read again, because the
    ledger describes each edit in more detail.
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
    """SLSA's build definition: everything that must be equal when the edit is repeated."""

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
