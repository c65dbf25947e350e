"""The one door to an edited folder: manifest, ledger, headers, files, report, recipe and base.

A command opens the folder once and hands the `EditedModel` on. Each part is read when it is first
asked for, and kept. So is the error: a part that cannot be read raises only when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forgetcli.artifact import ledger as ledgers
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.manifest import Manifest
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import single_file
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub
from forgetcli.storage.files import files_digest, inside, is_regular, read_regular, sha256_file
from forgetcli.storage.json import read_json
from forgetcli.storage.safetensors import TensorSite, WeightFile

_CHANGED = "run 'forget verify' on it; apply the recipe again if it was changed"


@dataclass(frozen=True)
class EditedModel:
    """A folder that forget wrote.

    Attributes:
        folder: the edited folder; nothing in it is read before it is asked for.
        base_name: the unedited model, as the user named it; None for the one in the manifest.
        foreign: whether the folder comes from the network. Then the manifest may name a base by its
            public name only: a path in it would be one of its author's machine.
    """

    folder: Path
    base_name: str | Path | None = None
    foreign: bool = False

    @classmethod
    def open(cls, folder: str | Path, base: str | Path | None = None) -> EditedModel:
        """An edited folder whose manifest has been read.

        Raises:
            ModelError: there is no such folder, or it was not made by forget.
        """
        edited = cls(Path(folder), base)
        _ = edited.manifest
        return edited

    @cached_property
    def manifest(self) -> Manifest:
        """
        Raises:
            ModelError: those of `manifest.load`.
        """
        return manifests.load(self.folder)

    @cached_property
    def ledger(self) -> Ledger | None:
        """The record of all edits; None for a folder without edits, or from before ledgers.

        Raises:
            ModelError: ledger.damaged, and those of `manifest`.
        """
        return ledgers.load(self.folder, self.manifest)

    @cached_property
    def report_bytes(self) -> bytes:
        """
        Raises:
            ModelError: file.outside, file.not-regular, file.too-large.
            OSError: the report cannot be read.
        """
        return read_regular(self.path(manifests.REPORT), manifests.LARGEST_FILE)

    @cached_property
    def recipe_bytes(self) -> bytes:
        """The recipe that the manifest names, as it lies in the folder.

        Raises:
            ModelError: those of `manifest`; file.outside, file.not-regular, file.too-large.
            OSError: it cannot be read.
        """
        return read_regular(self.path(self.manifest.recipe_path.name), manifests.LARGEST_FILE)

    @cached_property
    def base_or_fault(self) -> Base | ForgetError:
        """The unedited model, or why the one that the manifest names is not on this machine.

        Nothing is downloaded unless the user named the model.

        Raises:
            ForgetError: the user named a model that cannot be found.
        """
        if self.base_name is not None:
            return self.manifest.resolve_base(self.base_name)
        name = self.manifest.base_id
        if self.foreign and name != "demo" and not hub.NAME.fullmatch(name):
            return ModelError(
                "model.not-found",
                "its base model was a folder on another machine",
                "name your copy of it",
            )
        try:
            return self.manifest.resolve_base(download=False)
        except ForgetError as fault:
            return fault

    @cached_property
    def base(self) -> Base:
        """The unedited model.

        Raises:
            ModelError: export.no-base; or `base_or_fault` raises.
        """
        base = self.base_or_fault
        if isinstance(base, Base):
            return base
        if not isinstance(base, ModelError):
            raise base
        raise ModelError(
            "export.no-base",
            "this format needs the unedited model, and "
            f"'{self.manifest.base}' cannot be had here ({base.message})",
            "name it with --base",
        ) from base

    @cached_property
    def file(self) -> Path | None:
        """The edited single file, if the base was one."""
        return checkpoint.edited_file(self.folder)

    @property
    def settings(self) -> Path:
        """The folder of the components' settings."""
        return self.folder / single_file.CONFIG if self.file else self.folder

    @cached_property
    def _weight_files(self) -> dict[str, WeightFile]:
        return {}

    def weight_file(self, file: str) -> WeightFile:
        """One of the folder's safetensors files; its header is kept here.

        Raises:
            ModelError: file.outside: it is a link out of the folder.
        """
        if file not in self._weight_files:
            self.path(file)
            self._weight_files[file] = WeightFile(self.folder, file)
        return self._weight_files[file]

    def path(self, name: str) -> Path:
        """Where a file of the folder lies; every name that the manifest gives goes through here.

        Raises:
            ModelError: file.outside: it does not lie in the folder, or is a link out of it.
        """
        inside(self.folder, self.folder / name)
        return self.folder / name

    def site(self, tensor: EditedTensor) -> TensorSite:
        """
        Raises:
            ModelError: model.changed: it is not where the manifest says.
        """
        site = tensor.site(self.weight_file(tensor.file).sites)
        if site is None:
            raise ModelError(
                "model.changed",
                f"{self.folder}: '{tensor.key}' is not where its manifest says",
                _CHANGED,
            )
        return site

    def after(self, tensor: EditedTensor) -> bytes:
        """The bytes of an edited tensor.

        Raises:
            ModelError: model.changed: they are not those that were written.
        """
        data = self.weight_file(tensor.file).read_bytes(self.site(tensor))
        if hashlib.sha256(data).hexdigest() != tensor.after:
            raise ModelError(
                "model.changed",
                f"{self.folder}: '{tensor.key}' is no longer what its manifest says",
                _CHANGED,
            )
        return data

    def before(self, tensor: EditedTensor) -> bytes:
        """The bytes of an edited tensor in the base.

        Raises:
            ModelError: export.other-base: the base here is not the one that was edited.
        """
        weights = self.base.weight_file(tensor.file)
        site = tensor.site(weights.sites) if weights.path.is_file() else None
        data = weights.read_bytes(site) if site else b""
        if hashlib.sha256(data).hexdigest() != tensor.before:
            digest = self.manifest.base_digest[:12]
            raise ModelError(
                "export.other-base",
                f"'{self.base.id}' is not the model that was edited: its '{tensor.key}' is another",
                f"the edit was made on '{self.manifest.base}' (digest {digest}…); "
                "name it with --base",
            )
        return data

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files that make up the model, without forget's own; their digests have been checked.

        Raises:
            ModelError: model.changed: one is missing, or is not what was written.
        """
        return self._checked(
            path
            for path in self.manifest.subjects
            if path in self.manifest.base_files or path == manifests.CARD
        )

    @cached_property
    def all_files(self) -> tuple[str, ...]:
        """Every file that the manifest lists; their digests have been checked.

        Raises:
            ModelError: as `files`.
        """
        return self._checked(self.manifest.subjects)

    def _checked(self, paths: Iterable[str]) -> tuple[str, ...]:
        checked = []
        for path in paths:
            file = self.path(path)
            if not is_regular(file) or sha256_file(file) != self.manifest.subjects[path]:
                raise ModelError(
                    "model.changed",
                    f"{self.folder / path} is no longer what the manifest says",
                    _CHANGED,
                )
            checked.append(path)
        return tuple(checked)

    @property
    def digest(self) -> str:
        """The digest of the model's files by the manifest; results of evaluations name it."""
        subjects = self.manifest.subjects
        return files_digest(
            {path: subjects[path] for path in self.manifest.base_files if path in subjects}
        )

    def config(self, component: str) -> dict[str, Any]:
        """A component's settings; nothing if it has none."""
        for name in ("config.json", "scheduler_config.json"):
            path = self.settings / component / name
            if path.is_file():
                return self._json(path)
        return {}

    @cached_property
    def index(self) -> dict[str, Any]:
        """What ``model_index.json`` says."""
        return self._json(self.settings / checkpoint.INDEX)

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            return dict(read_json(inside(self.folder, path)))
        except (OSError, ValueError, TypeError) as fault:
            raise ModelError("model.damaged", f"{path} is not valid: {fault}", _CHANGED) from fault
