"""An edited folder as exports read it: every byte is checked against the manifest before it is
handed on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.manifest import EditedTensor, Manifest
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import single_file
from forgetcli.checkpoint.base import Base
from forgetcli.errors import ModelError
from forgetcli.storage.files import is_regular, sha256_file
from forgetcli.storage.safetensors import TensorSite, read_bytes, read_header

_CHANGED = "run 'forget verify' on it; apply the recipe again if it was changed"


@dataclass(frozen=True)
class Edited:
    """A folder that forget wrote.

    Attributes:
        base_name: what the user says is the unedited model; None for the one that the manifest
            names.
    """

    folder: Path
    manifest: Manifest
    base_name: str | None = None

    @classmethod
    def open(cls, folder: str | Path, base: str | None = None) -> Edited:
        """
        Raises:
            ModelError: there is no such folder, or it was not made by forget.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ModelError(
                "model.not-found",
                f"there is no folder {folder}",
                "give the folder that 'forget apply' wrote",
            )
        return cls(folder, manifests.load(folder), base)

    @cached_property
    def base(self) -> Base:
        """The unedited model, as it is here; nothing is downloaded unless the user named it."""
        name = self.base_name or self.manifest.base
        try:
            return self.manifest.resolve_base(self.base_name, download=self.base_name is not None)
        except ModelError as fault:
            if self.base_name is not None:
                raise
            raise ModelError(
                "export.no-base",
                "this format needs the unedited model, and "
                f"'{name}' cannot be had here ({fault.message})",
                "name it with --base",
            ) from fault

    @cached_property
    def file(self) -> Path | None:
        """The single file that it is, if the base was one."""
        return checkpoint.edited_file(self.folder)

    @property
    def settings(self) -> Path:
        """The folder of the components' settings."""
        return self.folder / single_file.CONFIG if self.file else self.folder

    @cached_property
    def headers(self) -> dict[str, dict[str, TensorSite]]:
        """The tensors of every file that was edited, by file and key."""
        return {
            file: read_header(self.folder, file)
            for file in sorted({tensor.file for tensor in self.manifest.edited})
        }

    def site(self, tensor: EditedTensor) -> TensorSite:
        """
        Raises:
            ModelError: model.changed: it is not where the manifest says.
        """
        site = tensor.site(self.headers[tensor.file])
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
        data = read_bytes(self.folder, self.site(tensor))
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
        there = (self.base.folder / tensor.file).is_file()
        site = tensor.site(read_header(self.base.folder, tensor.file)) if there else None
        data = read_bytes(self.base.folder, site) if site else b""
        if hashlib.sha256(data).hexdigest() != tensor.before:
            digest = self.manifest.base_digest[:12]
            raise ModelError(
                "export.other-base",
                f"'{self.base.id}' is not the model that was edited: its '{tensor.key}' is another",
                f"the edit was made on '{self.manifest.base}' (digest {digest}…); name it with --base",
            )
        return data

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files that make up the model, without forget's own; their digests have been checked.

        Raises:
            ModelError: model.changed: one is missing, or is not what was written.
        """
        wanted = [
            path
            for path in self.manifest.subjects
            if path in self.manifest.base_files or path == manifests.CARD
        ]
        for path in wanted:
            if (
                not is_regular(self.folder / path)
                or sha256_file(self.folder / path) != self.manifest.subjects[path]
            ):
                raise ModelError(
                    "model.changed",
                    f"{self.folder / path} is no longer what the manifest says",
                    _CHANGED,
                )
        return tuple(wanted)

    def config(self, component: str) -> dict:
        """A component's settings; nothing if it has none."""
        for name in ("config.json", "scheduler_config.json"):
            path = self.settings / component / name
            if path.is_file():
                return self._json(path)
        return {}

    @cached_property
    def index(self) -> dict:
        return self._json(self.settings / checkpoint.INDEX)

    def _json(self, path: Path) -> dict:
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as fault:
            raise ModelError("model.damaged", f"{path} is not valid: {fault}", _CHANGED) from fault
