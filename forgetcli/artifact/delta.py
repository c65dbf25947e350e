"""Deltas: an edit in a file without the rest of the model.

A delta is a safetensors file with one tensor for each that the edit changed, named ``file/key``.
Its header has the digest of the base and forget's own files of the edited folder: manifest, recipe,
report, model card. A file of these that is not text is a tensor of bytes with the file's name. The
delta and the base give the edited folder again, byte for byte; in its manifest only ``runDetails``
differ. See `forgetcli.pipeline.apply_delta`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import CARD, MANIFEST, RECIPE, REPORT, Manifest
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.errors import ModelError
from forgetcli.storage.files import read_regular
from forgetcli.storage.safetensors import WeightFile
from forgetcli.storage.safetensors_writer import Content, of_bytes

DIGEST = "forget.base_digest"
OWN = re.compile(rf"{re.escape(RECIPE)}|{re.escape(CARD)}|forget\.[\w.-]+")
LARGEST_OWN_FILE = 1 << 34  # bytes; a ledger can be as large as the weights
EXPORT_AGAIN = "export it again: forget export edited/ --format delta"


@dataclass(frozen=True)
class Delta:
    """A delta on disk; its tensors are read when they are asked for.

    Attributes:
        weights: the delta's file.
        manifest: the manifest of the edited folder.
        own: forget's own files of the edited folder, by name; their digests are those of the
            manifest.
    """

    weights: WeightFile
    manifest: Manifest
    own: dict[str, bytes]

    @property
    def path(self) -> Path:
        return self.weights.path

    def value(self, tensor: EditedTensor) -> bytes:
        """The new bytes of a tensor.

        Raises:
            ModelError: delta.damaged: they are not those of the edit.
        """
        site = self.weights.sites.get(name_of(tensor))
        data = self.weights.read_bytes(site) if site else b""
        if hashlib.sha256(data).hexdigest() != tensor.after:
            raise ModelError(
                "delta.damaged",
                f"{self.path}: '{name_of(tensor)}' {'is damaged' if site else 'is missing'}",
                EXPORT_AGAIN,
            )
        return data


def name_of(tensor: EditedTensor) -> str:
    """The tensor's name in a delta."""
    return f"{tensor.file}/{tensor.key}" + ("" if tensor.third is None else f":{tensor.third}")


def own_files(edited: EditedModel) -> tuple[dict[str, str], dict[str, Content]]:
    """The parts of a delta beside the changed tensors: metadata, and files that are not text."""
    manifest = edited.manifest
    texts = {DIGEST: manifest.base_digest, "forget.base": manifest.base}
    others = {}
    for name in (MANIFEST, *_names(manifest)):
        data = read_regular(edited.path(name), LARGEST_OWN_FILE)
        try:
            texts[name] = data.decode("utf-8")
        except UnicodeDecodeError:
            others[name] = of_bytes("U8", (len(data),), data)
    return texts, others


def _names(manifest: Manifest) -> list[str]:
    """Forget's own files, but for a single file's settings: those come with the base."""
    return sorted(
        name
        for name in {RECIPE, REPORT, *manifest.written} - {MANIFEST}
        if not name.startswith(f"{CONFIG}/")
    )


def read(path: str | Path) -> Delta:
    """
    Raises:
        ModelError: delta.not-found, delta.not-a-delta, delta.damaged; model.damaged for what is no
            safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            "delta.not-found",
            f"there is no file {path}",
            "give a file that 'forget export --format delta' wrote",
        )
    weights = WeightFile(path.parent, path.name)
    tensors = weights.sites
    texts = weights.metadata
    if MANIFEST not in texts or DIGEST not in texts:
        raise ModelError(
            "delta.not-a-delta",
            f"{path} is a safetensors file, but not a delta of forget's",
            "give a file that 'forget export --format delta' wrote",
        )
    manifest = manifests.parse(texts[MANIFEST].encode(), path.parent, f"{path}: {MANIFEST}")
    own = {}
    for name in _names(manifest):
        data = b""
        if name in texts:
            data = texts[name].encode()
        elif name in tensors:
            data = weights.read_bytes(tensors[name])
        # A delta may come from anyone: it may bring forget's own files, and no code or weights
        # beside the edited ones.
        if hashlib.sha256(data).hexdigest() != manifest.subjects.get(name) or not OWN.fullmatch(
            name
        ):
            raise ModelError(
                "delta.damaged",
                f"{path}: its {name} is not the one of its manifest, or no file of forget's",
                EXPORT_AGAIN,
            )
        own[name] = data
    return Delta(weights, manifest, own)


def find_base(delta: Delta, model: str | None = None, config: str | Path | None = None) -> Base:
    """The base that a delta belongs to.

    Args:
        model: what the user says is the base; by default the one that the delta names, fetched if
            need be.
        config: a single file's settings; see `checkpoint.resolve`.
    Raises:
        ModelError: delta.other-base: it is not the model that was edited, in any byte.
    """
    manifest = delta.manifest
    base = checkpoint.resolve(model or manifest.base, config=config)
    if base.digest != manifest.base_digest:
        here = base.files
        there = manifest.base_files
        differing = sorted(
            path for path in here.keys() | there.keys() if here.get(path) != there.get(path)
        )
        first = differing[0]
        how = "differs" if first in here and first in there else "is not in both"
        more = f", and {len(differing) - 1} more files" if differing[1:] else ""
        raise ModelError(
            "delta.other-base",
            f"{delta.path} is a delta of '{manifest.base}' "
            f"(digest {manifest.base_digest[:12]}…), and '{base.id}' is another model "
            f"(digest {base.digest[:12]}…): {first} {how}{more}",
            "give the delta's own base with --model",
        )
    return base
