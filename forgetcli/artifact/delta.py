"""Deltas: an edit as a file of its own, and the edited model made from it and the base.

A delta is a safetensors file with one tensor for each that the edit changed, named ``file/key``,
and in its header the
digest of the base and forget's own files of the edited folder: manifest, recipe, report, model
card. One of these that is
no text is a tensor of bytes with the file's name. So the base alone is needed to get the edited
folder back, byte for
byte, with a manifest that says the same of how it came about; only ``runDetails`` are the new
run's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from forgetcli.artifact import manifest as manifests
from forgetcli.artifact import patch, provenance
from forgetcli.artifact.manifest import CARD, MANIFEST, RECIPE, REPORT, EditedTensor, Manifest
from forgetcli.artifact.patch import Stored
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.base import Base
from forgetcli.checkpoint.single_file import CONFIG
from forgetcli.errors import EditError, ModelError
from forgetcli.pipeline import memory
from forgetcli.pipeline.apply import ApplyResult, versions
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import atomic
from forgetcli.storage.copying import Copying
from forgetcli.storage.files import refuse_overlap, sha256_file
from forgetcli.storage.safetensors import TensorSite, read_bytes, read_header, read_metadata
from forgetcli.storage.safetensors_writer import Content, of_bytes

DIGEST = "forget.base_digest"
OWN = re.compile(rf"{re.escape(RECIPE)}|{re.escape(CARD)}|forget\.[\w.-]+")
_AGAIN = "export it again: forget export edited/ --format delta"


@dataclass(frozen=True)
class Delta:
    """A delta on disk, read but for its tensors.

    Attributes:
        own: forget's own files of the edited folder, by name; their digests are those of the
            manifest.
        tensors: what is stored, by name.
    """

    path: Path
    manifest: Manifest
    own: dict[str, bytes]
    tensors: dict[str, TensorSite]

    def value(self, tensor: EditedTensor) -> bytes:
        """The new bytes of a tensor.

        Raises:
            ModelError: delta.damaged: they are not those of the edit.
        """
        site = self.tensors.get(name_of(tensor))
        data = read_bytes(self.path.parent, site) if site else b""
        if hashlib.sha256(data).hexdigest() != tensor.after:
            raise ModelError(
                "delta.damaged",
                f"{self.path}: '{name_of(tensor)}' {'is damaged' if site else 'is missing'}",
                _AGAIN,
            )
        return data


def name_of(tensor: EditedTensor) -> str:
    """The tensor's name in a delta."""
    return f"{tensor.file}/{tensor.key}" + ("" if tensor.third is None else f":{tensor.third}")


def own_files(folder: Path, manifest: Manifest) -> tuple[dict[str, str], dict[str, Content]]:
    """What a delta of the edited `folder` has beside the changed tensors: metadata, and files that
    are no text.
    """
    texts, others = {DIGEST: manifest.base_digest, "forget.base": manifest.base}, {}
    for name in (MANIFEST, *_names(manifest)):
        data = (folder / name).read_bytes()
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
    tensors, texts = read_header(path.parent, path.name), read_metadata(path)
    if MANIFEST not in texts or DIGEST not in texts:
        raise ModelError(
            "delta.not-a-delta",
            f"{path} is a safetensors file, but not a delta of forget's",
            "give a file that 'forget export --format delta' wrote",
        )
    manifest = manifests.parse(texts[MANIFEST].encode(), path.parent, f"{path}: {MANIFEST}")
    own = {}
    for name in _names(manifest):
        blob = tensors.get(name)
        data = (
            texts[name].encode()
            if name in texts
            else read_bytes(path.parent, blob)
            if blob
            else b""
        )
        # A delta may come from anyone: it may bring forget's own files, and no code or weights
        # beside the edited ones.
        if hashlib.sha256(data).hexdigest() != manifest.subjects.get(name) or not OWN.fullmatch(
            name
        ):
            raise ModelError(
                "delta.damaged",
                f"{path}: its {name} is not the one of its manifest, or no file of forget's",
                _AGAIN,
            )
        own[name] = data
    return Delta(path, manifest, own, tensors)


def find_base(delta: Delta, model: str | None = None, config: str | Path | None = None) -> Base:
    """The base that a delta belongs to.

    Args:
        model: what the user says is the base; by default the one that the delta names, fetched if
            need be.
        config: a single file's settings; see `checkpoint.resolve`.
    Raises:
        ModelError: delta.other-base: it is not the model that was edited, in any byte.
    """
    base, manifest = checkpoint.resolve(model or delta.manifest.base, config=config), delta.manifest
    if base.digest != manifest.base_digest:
        here, there = base.files, manifest.base_files
        differing = sorted(
            path for path in here.keys() | there.keys() if here.get(path) != there.get(path)
        )
        more = f", and {len(differing) - 1} more files" if differing[1:] else ""
        raise ModelError(
            "delta.other-base",
            f"{delta.path} is a delta of '{manifest.base}' (digest {manifest.base_digest[:12]}…), and '{base.id}' "
            f"is another model (digest {base.digest[:12]}…): {differing[0]} "
            f"{'differs' if differing[0] in here and differing[0] in there else 'is not in both'}{more}",
            "give the delta's own base with --model",
        )
    return base


def apply(
    path: str | Path,
    *,
    model: str | None = None,
    config: str | Path | None = None,
    output: Path | str = "edited",
    copying: Copying | str = "reflink",
    force: bool = False,
    observer: Observer | None = None,
) -> ApplyResult:
    """Make the edited model from a delta and its base, and publish it at `output` in one rename.

    Args: see `find_base` and `pipeline.apply`.
    Raises:
        ForgetError: delta, base or output; nothing is left behind.
    """
    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    started = datetime.now(UTC)
    with watch.stage("load"):
        delta = read(path)
        base = find_base(delta, model, config)
    refuse_overlap(output, base.place, kind="the base model")
    manifest, report, copying = delta.manifest, json.loads(delta.own[REPORT]), Copying(copying)
    with atomic.publishing(output, force=force) as staging, watch.stage("write"):
        patch.check_room(base, staging, output, copying)
        observer.stage("writing")
        patch.copy_with(
            base,
            staging,
            ((_site(base, tensor), delta.value(tensor)) for tensor in manifest.edited),
            {tensor.file for tensor in manifest.edited},
            copying,
        )
        for name, data in delta.own.items():
            (staging / name).write_bytes(data)
        provenance.write(
            staging,
            base=base,
            recipe_bytes=delta.own[RECIPE],
            method=manifest.method,
            parameters=manifest.parameters,
            stored=_stored(staging, manifest),
            report=report,
            materials=[
                {"name": name, "sha256": digest} for name, digest in manifest.materials.items()
            ],
            run_details={
                "startedOn": started.isoformat(),
                "finishedOn": datetime.now(UTC).isoformat(),
                "delta": {"name": delta.path.name, "sha256": sha256_file(delta.path)},
                "edits": manifest.run_details.get("metadata", {}).get("edits", {}),
                "editedBy": manifest.run_details,
                "versions": versions(),
            },
        )
        _check(staging, manifest)
    observer.done()
    return ApplyResult(
        output=output,
        base={"id": base.id, "revision": base.revision, "digest": base.digest},
        recipe_sha256=manifest.recipe_sha256,
        method=manifest.method,
        sites=tuple(report.get("sites", ())),
        check=report.get("check", {}),
        cache={"hits": 0, "misses": 0},
        seconds=watch.report(),
        peak_rss=memory.peak_rss(),
    )


def _site(base: Base, tensor: EditedTensor) -> TensorSite:
    """Where a tensor lies in the base, which is by its digest the very one that the manifest speaks
    of.
    """
    site = tensor.site(read_header(base.folder, tensor.file))
    if site is None:
        raise ModelError(
            "delta.damaged",
            f"the delta's manifest is wrong about the place of '{tensor.key}' in {tensor.file}",
            _AGAIN,
        )
    return site


def _stored(staging: Path, manifest: Manifest) -> dict[tuple[str, str], Stored]:
    """What `patching.patch` said when the edit was made, with the digests of what lies on disk now."""
    parts: dict[tuple[str, str], list[Stored]] = {}
    for tensor in manifest.edited:
        site = tensor.site(read_header(staging, tensor.file))
        stored = Stored(
            site,
            hashlib.sha256(read_bytes(staging, site)).hexdigest(),
            tensor.error,
            before=tensor.before,
        )
        parts.setdefault((tensor.component, tensor.parameter), []).append(stored)
    return {key: replace(first, also=tuple(others)) for key, (first, *others) in parts.items()}


def _check(staging: Path, manifest: Manifest) -> None:
    """That the folder is the one that the delta was made of."""
    made = manifests.load(staging).subjects
    wrong = sorted(
        path
        for path in made.keys() | manifest.subjects.keys()
        if made.get(path) != manifest.subjects.get(path)
    )
    if wrong:
        settings = all(path.startswith(f"{CONFIG}/") for path in wrong)
        raise EditError(
            "delta.other-result",
            f"the delta did not give the edited model back: {wrong[0]} differs",
            "name the settings that the edit was made with: --config" if settings else _AGAIN,
        )
