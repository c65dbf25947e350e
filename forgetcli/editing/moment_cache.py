"""Second moments on disk, one file per entry, so that a second `apply` to the same model does not
compute them again. Their eigendecompositions lie there too, and images of unedited models: see
`editing.decompositions` and `generation.image_cache`.

An entry's name is the SHA-256 of its identity, which is everything that it depends on. The file has
the identity and a checksum of the tensors, and both are compared on load. A damaged entry is a
miss: the cache can cost time, never correctness.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.errors import OutputError
from forgetcli.progress import Observer, Silent
from forgetcli.storage.atomic import output_faults, write_atomically
from forgetcli.storage.files import read_regular
from forgetcli.storage.json import decode
from forgetcli.storage.safetensors import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = "k0-v1"  # raise the number when the file's layout changes
LARGEST_ENTRY = 8 << 30  # bytes; a moment of width 4096 has 128 MiB
# Names of entries, of the locks of older versions, and of temporary files: nothing else is deleted.
MADE_HERE = re.compile(r".+\.safetensors|.+\.lock|\..+\.tmp")
MOMENT = "second moment"  # kind of entries whose identity has none
STALE_SECONDS = 24 * 3600  # older temporary files are left over from killed runs


def default_folder() -> Path:
    """``FORGET_CACHE_DIR``, or the platform's cache folder for `forget`."""
    # Here because most commands never ask for the cache.
    import platformdirs

    return Path(os.environ.get("FORGET_CACHE_DIR") or platformdirs.user_cache_dir("forget"))


@dataclass(frozen=True)
class Entry:
    """One cached result, as `forget cache ls` shows it.

    Attributes:
        bytes: size of the file.
        modified: when it was last stored or used; seconds since the epoch.
        kind: what it is; None for a damaged file.
        model, prompts: the model and the number of prompts, if the entry's identity has them.
    """

    key: str
    bytes: int
    modified: float
    kind: str | None
    model: str | None
    prompts: int | None


class MomentCache:
    """Tensors by identity.

    An identity is a JSON object of everything that the tensors depend on. `hits` and `misses` count
    the calls of `load`.

    Args:
        folder: the cache's folder, by default `default_folder()`. It is created when an entry is
            stored.
        observer: gets a note if an entry cannot be stored.
    """

    def __init__(self, folder: Path | None = None, observer: Observer | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.bucket = self.folder / BUCKET
        self.observer = observer or Silent()
        self.hits = 0
        self.misses = 0

    def load(self, identity: Mapping) -> dict[str, Tensor] | None:
        """The tensors stored for `identity`, or None if there are none or they are damaged."""
        tensors = self._read(identity)
        self._count(tensors is not None)
        return tensors

    def has(self, identity: Mapping) -> bool:
        """Whether there is an entry for `identity`; it is neither read nor counted."""
        return self._path(_canonical(identity)).is_file()

    def store(self, identity: Mapping, tensors: Mapping[str, Tensor]) -> bool:
        """Store `tensors` for `identity`, and return whether that worked.

        A full or read-only disk is a note to the observer, not an error.
        """
        # Here because it imports torch, which listing and pruning do not need.
        from safetensors.torch import save

        preimage = _canonical(identity)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        path = self._path(preimage)
        try:
            with output_faults(path):
                self.bucket.mkdir(parents=True, exist_ok=True)
            # As bytes, since save_file creates files with mode 0600, whatever the umask.
            write_atomically(
                path, save(whole, metadata={"identity": preimage, "sha256": _checksum(whole)})
            )
            return True
        except OutputError as fault:
            self.observer.note(f"not kept in the cache: {fault.message}")
            return False

    def entries(self) -> list[Entry]:
        """All entries of this version, least recently used first.

        A damaged file is listed without a model.
        """
        found = [
            self._entry(path)
            for path in self.bucket.glob("*.safetensors")
            if _is_made_here(path) and not self.bucket.is_symlink()
        ]
        return sorted((e for e in found if e is not None), key=lambda e: (e.modified, e.key))

    def prune(
        self,
        older_than_days: float | None = None,
        max_bytes: int | None = None,
        everything: bool = False,
    ) -> list[Entry]:
        """Delete entries and return them.

        Args:
            older_than_days: delete entries that were not used for this long.
            max_bytes: then delete the least recently used until the rest is no larger than this.
            everything: delete all entries, and those of older versions of forget.
        Raises:
            OutputError: no permission to delete.
        """
        kept: list[Entry] = []
        gone: list[Entry] = []
        limit = time.time() - older_than_days * 86400 if older_than_days is not None else None
        for entry in self.entries():
            (gone if everything or (limit is not None and entry.modified < limit) else kept).append(
                entry
            )
        if max_bytes is not None:
            size = sum(entry.bytes for entry in kept)
            while kept and size > max_bytes:
                size -= kept[0].bytes
                gone.append(kept.pop(0))
        with output_faults(self.folder, remedy="set FORGET_CACHE_DIR to a folder of your own"):
            for entry in gone:
                (self.bucket / f"{entry.key}.safetensors").unlink(missing_ok=True)
            for path in self._leftovers(everything):
                path.unlink(missing_ok=True)
        return gone

    def _leftovers(self, everything: bool) -> list[Path]:
        """Files that are no entries: locks of older versions and temporary files of killed runs.

        Args:
            everything: also the files of other buckets.
        """
        old = time.time() - STALE_SECONDS
        own = [p for pattern in ("*.lock", ".*.tmp") for p in self.bucket.glob(pattern)]
        stale = [p for p in own if everything or p.stat().st_mtime < old]
        others = self.folder.glob("k0-v*/*") if everything else ()
        other = [
            p
            for p in others
            if p.parent != self.bucket and not p.parent.is_symlink() and _is_made_here(p)
        ]
        return [] if self.bucket.is_symlink() else [p for p in stale if _is_made_here(p)] + other

    def _path(self, preimage: str) -> Path:
        return self.bucket / f"{hashlib.sha256(preimage.encode()).hexdigest()}.safetensors"

    def _count(self, hit: bool) -> None:
        self.hits += hit
        self.misses += not hit

    def _read(self, identity: Mapping) -> dict[str, Tensor] | None:
        # Here for the same reason as in `store`.
        from safetensors.torch import load

        preimage = _canonical(identity)
        path = self._path(preimage)
        try:
            # Not mapped: a file that is cut off while mapped kills the process.
            data = read_regular(path, LARGEST_ENTRY)
            tensors = load(data)
            metadata = _metadata(data)
            if metadata["identity"] != preimage or metadata["sha256"] != _checksum(tensors):
                return None
        except Exception:  # damaged, replaced by a pipe, larger than the memory
            return None
        with suppress(OSError):  # the cache may belong to another user
            os.utime(path)  # the time of last use, for `prune`
        return tensors

    def _entry(self, path: Path) -> Entry | None:
        try:
            status = path.stat()
        except OSError:  # another process deleted it meanwhile
            return None
        kind = model = prompts = None
        with suppress(Exception):  # a damaged file is listed too, so that it can be pruned
            metadata = WeightFile(self.bucket, path.name).metadata
            identity = decode(metadata["identity"].encode())
            model = identity.get("model") if isinstance(identity.get("model"), str) else None
            kind = identity.get("kind", MOMENT)
            kind = kind if isinstance(kind, str) else None
            prompts = identity.get("prompts")
            if isinstance(prompts, list):
                prompts = len(prompts)
            elif type(prompts) is not int:
                prompts = None
        return Entry(path.stem, status.st_size, status.st_mtime, kind, model, prompts)


def _is_made_here(path: Path) -> bool:
    """Whether a file is a cache's by its name, and a regular file: all else is never deleted."""
    try:
        return bool(MADE_HERE.fullmatch(path.name)) and stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:  # another process deleted it meanwhile
        return False


def _canonical(identity: Mapping) -> str:
    return json.dumps(
        identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _metadata(data: bytes) -> dict[str, str]:
    """`__metadata__` of a safetensors file; an exception means that the file is damaged."""
    length = struct.unpack("<Q", data[:8])[0]
    return decode(data[8 : 8 + length])["__metadata__"]


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    # Here because listing and pruning do not need torch.
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
