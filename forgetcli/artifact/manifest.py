"""The manifest of an edited folder, ``forget.provenance.json``: its content, the names of forget's
files, and how it is read. `forgetcli.artifact.manifest_schema` has its schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from forgetcli.artifact.manifest_schema import EditedTensor, Statement, plain_path
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import single_file
from forgetcli.errors import ModelError
from forgetcli.storage import json
from forgetcli.storage.atomic import MARKER
from forgetcli.storage.files import inside, read_regular, refuse_missing_folder

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base

MANIFEST = MARKER
REPORT = "forget.report.json"
RECIPE = "recipe.toml"
CARD = "README.md"
# The signature is not among the subjects, because it is computed from them.
SIGNATURE = "forget.signature.json"
GIVE_EDITED = "give the folder that 'forget apply' wrote"
# Bytes of a manifest, ledger or report. For a model with 20,000 tensors they have about 10 MB.
LARGEST_FILE = json.LARGEST_FILE

# The name of the digest of a base model's files, among in-toto's digest algorithms.
FILES_DIGEST = "forgetFiles"
# The name of the dependency for the whole base model. Its files are named base/PATH.
BASE = "base"


def is_hubs(path: str) -> bool:
    """Whether the hub adds this file to uploaded or downloaded models. No loader reads it."""
    return path == ".gitattributes" or path.startswith(".cache/huggingface/")


def base_uri(base_id: str, revision: str | None) -> str | None:
    """The package URL of a base model; None if it has no public address."""
    if base_id == "demo":
        # An identifier in published manifests, not a path: it does not change if the files move.
        return "pkg:pypi/forgetcli#forgetcli/demo/model"
    return f"pkg:huggingface/{base_id}@{revision}" if revision else None


@dataclass(frozen=True)
class Manifest:
    """The content of the manifest of an edited folder.

    Attributes:
        base_id, base_revision, base_digest: the unedited model, as in `checkpoint.Base`.
        base_files: the unedited model's files, path → SHA-256.
        recipe_path, recipe_sha256: the recipe's copy in the folder.
        method, parameters: the editing method and its parameters.
        edited: the changed tensors.
        written: the files that forget added: report, recipe, model card.
        subjects: all files of the folder except the manifest, path → SHA-256.
        materials: the second moments that the edit used, name → SHA-256.
        run_details: times, versions, machine.
        base_uri: the base model's package URL, if the manifest has one.
        listed_recipe: the recipe's digest among the dependencies; None if it is not among them.
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
        """The base model's name for `checkpoint.resolve`."""
        return f"{self.base_id}@{self.base_revision}" if self.base_revision else self.base_id

    def resolve_base(self, named: str | Path | None = None, *, download: bool = True) -> Base:
        """The unedited model.

        A single file gets the settings of its edited copy, so that both generate images under the
        same conditions.

        Args:
            named: the unedited model, if the user named it; default: the recorded one.
        Raises:
            ModelError: those of `checkpoint.resolve`.
        """
        config = self.recipe_path.parent / single_file.CONFIG
        return checkpoint.resolve(
            named or self.base, config=config if config.is_dir() else None, download=download
        )


def load(folder: str | Path) -> Manifest:
    """Load the manifest of an edited folder.

    Raises:
        ModelError: model.not-found: the folder does not exist; model.not-edited: it has no
            manifest; model.manifest: the manifest is damaged or does not fit the schema.
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
    """Parse a manifest.

    Args:
        folder: the folder that the manifest describes.
        name: the manifest's name in errors.
    Raises:
        ModelError: model.manifest: the manifest is damaged or does not fit the schema.
    """
    try:
        # `decode` checks limits and duplicate keys. The schema is validated on the text, so that
        # pydantic applies its rules for JSON.
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
    dependencies = _table([(entry.name, entry.digest) for entry in build.dependencies])
    base_prefix = f"{BASE}/"
    try:
        return Manifest(
            base_id=build.external.model.id,
            base_revision=build.external.model.revision,
            base_digest=dependencies[BASE][FILES_DIGEST],
            base_files={
                plain_path(name.removeprefix(base_prefix)): digest["sha256"]
                for name, digest in dependencies.items()
                if name.startswith(base_prefix)
            },
            recipe_path=folder / build.external.recipe.name,
            recipe_sha256=build.external.recipe.digest.sha256,
            method=build.external.method,
            parameters=build.external.parameters,
            edited=tuple(build.internal.edited),
            written=tuple(build.internal.written),
            subjects=_table([(entry.name, entry.digest.sha256) for entry in statement.subject]),
            materials={
                name: digest["sha256"]
                for name, digest in dependencies.items()
                if name not in (BASE, RECIPE) and not name.startswith(base_prefix)
            },
            run_details=statement.predicate.run_details,
            base_uri=next((entry.uri for entry in build.dependencies if entry.name == BASE), None),
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
