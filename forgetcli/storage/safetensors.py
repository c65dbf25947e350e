"""Safetensors files: the header, and the bytes of single tensors. Weights are not loaded.

Headers are parsed here and not by the safetensors package: patching needs each tensor's byte
offsets in the file, which the package does not give.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from forgetcli.errors import ModelError
from forgetcli.storage import json
from forgetcli.storage.files import open_regular

ITEM_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
# Stored dtypes that can be edited, with torch's names for them.
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
# Commas and brackets, about ten per tensor. The largest public models have 20,000 tensors per file.
MOST_VALUES = 500_000
LONGEST_KEY = 1000  # characters of a tensor's name
LARGEST_SIZE = 2**63
MOST_SIZES = 64  # dimensions of a tensor; numpy's limit
FETCH_AGAIN = "fetch the model again"


@dataclass(frozen=True)
class TensorSite:
    """The location of one tensor on disk.

    Attributes:
        file: relative posix path within the model's folder.
        key: the tensor's name in the file.
        dtype: in the spelling of safetensors, such as ``F16``.
        shape: the tensor's shape.
        start: offset of the tensor's first byte in the file.
        end: offset after the tensor's last byte in the file.
        third: 0, 1 or 2 for the q, k or v part of a tensor in which the three are stacked; None for
            a whole tensor.
    """

    file: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    third: int | None = None

    def part(self, third: int | None) -> TensorSite:
        """One of three equal parts along the first axis, or the whole tensor for None."""
        if third is None:
            return self
        rows = self.shape[0] // 3
        size = (self.end - self.start) // 3
        start = self.start + third * size
        return replace(
            self, shape=(rows, *self.shape[1:]), start=start, end=start + size, third=third
        )


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file. Its header is read once, when it is first needed.

    Attributes:
        folder: the model's folder.
        file: the file's relative posix path within `folder`; also `TensorSite.file` of its tensors.
    """

    folder: Path
    file: str

    @property
    def path(self) -> Path:
        return Path(self.folder, self.file)

    @cached_property
    def sites(self) -> Mapping[str, TensorSite]:
        """The tensors by key, in the header's order.

        Raises:
            ModelError: model.damaged: the file is not an intact safetensors file (for example a
                git-lfs pointer, a web page, a truncated download, or offsets that overlap or leave
                gaps), or the safetensors package refuses it; model.pickle: a pickle with the name
                of a safetensors file; model.unreadable, file.not-regular.
        """
        entries, data, size = self._header
        try:
            _check_keys(entries)
            sites = {
                key: _site(self.file, key, entry, data)
                for key, entry in entries.items()
                if key != "__metadata__"
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
            raise damaged(self.path, f"its header is not valid ({fault})") from fault
        _check_cover(self.path, sites.values(), data, size)
        self._refuse_unloadable()
        return sites

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The free text in the header.

        Raises:
            ModelError: model.damaged, also if the metadata are not text; model.unreadable.
        """
        entries, _, _ = self._header
        metadata = entries.get("__metadata__") or {}
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise damaged(self.path, "its metadata are not text")
        return metadata

    def read_bytes(self, site: TensorSite) -> bytes:
        """The stored bytes of one tensor, or of a part of it."""
        return read_bytes(self.folder, site)

    @cached_property
    def _header(self) -> tuple[dict[str, Any], int, int]:
        """The header's entries, the offset of the first tensor and the file's size."""
        with self._open() as reader:
            size = os.fstat(reader.fileno()).st_size
            head = reader.read(8)
            _refuse_other_content(self.path, head + reader.read(120))
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or 8 + length > size or not 2 <= length <= LONGEST_HEADER:
                raise damaged(
                    self.path, f"it is truncated or not a safetensors file ({size} bytes)"
                )
            reader.seek(8)
            text = reader.read(length)
        try:
            entries = json.decode(text, nan=False, most_values=MOST_VALUES)
        except ValueError as fault:
            raise damaged(self.path, f"its header is not valid ({fault})") from fault
        if not isinstance(entries, dict):
            raise damaged(self.path, "its header is not valid (it is not a table)")
        return entries, 8 + length, size

    def _open(self) -> BinaryIO:
        try:
            return open_regular(self.path)
        except OSError as fault:
            raise ModelError(
                "model.unreadable",
                f"cannot read {self.path}: {fault.strerror or fault}",
                FETCH_AGAIN,
            ) from fault

    def _refuse_unloadable(self) -> None:
        """Refuse a file that the safetensors package refuses.

        The package maps the file and parses the header, which takes milliseconds. The libraries
        that load the model use the package too, but their error comes later and says less.
        """
        # Imported here, because the package imports numpy and some commands open no weights.
        from safetensors import SafetensorError, safe_open

        with self._open() as reader:
            # If the system allows it, the file is opened by its descriptor: then it is certainly
            # the same file, and its name need not be UTF-8.
            opened = Path(f"/proc/self/fd/{reader.fileno()}")
            try:
                with safe_open(opened if opened.exists() else self.path, "np"):
                    pass
            except (SafetensorError, OSError, ValueError) as fault:
                raise damaged(
                    self.path, f"the safetensors package does not accept it ({fault})"
                ) from fault


def read_header(folder: Path, file: str) -> dict[str, TensorSite]:
    """The tensors of a safetensors file by key: `WeightFile.sites` without caching.

    Raises:
        ModelError: as `WeightFile.sites`.
    """
    return dict(WeightFile(folder, file).sites)


def damaged(path: Path, what: str) -> ModelError:
    """The error for a damaged file; `what` describes the damage."""
    return ModelError("model.damaged", f"{path} is damaged: {what}", FETCH_AGAIN)


def _refuse_other_content(path: Path, head: bytes) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            "model.damaged",
            f"{path} is a git-lfs pointer, not the weights",
            "run 'git lfs pull' in the model's folder",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            "model.damaged",
            f"{path} is a web page, not the weights",
            "a download that needed a login? " + FETCH_AGAIN,
        )
    if (
        head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))
        and head[8:9] != b"{"
    ):
        raise ModelError(
            "model.pickle",
            f"{path} is a pickle under the name of a safetensors file",
            "forget opens safetensors only",
        )


def _check_keys(entries: Mapping[str, Any]) -> None:
    """Refuse names that are too long for an error message, before a message repeats one."""
    longest = max(map(len, entries), default=0)
    if longest > LONGEST_KEY:
        raise ValueError(f"a name has {longest} characters")


def _site(file: str, key: str, entry: dict, data: int) -> TensorSite:
    dtype = entry["dtype"]
    shape = entry["shape"]
    begin, end = entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ValueError(f"'{key}' has the unknown dtype {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > MOST_SIZES:
        raise ValueError(f"'{key}' has a shape that is not a list of at most {MOST_SIZES} sizes")
    if any(type(n) is not int or not 0 <= n < LARGEST_SIZE for n in (*shape, begin, end)):
        raise ValueError(f"'{key}' has a size or offset that is not a natural number of 64 bits")
    if (end - begin) * 8 != math.prod(shape) * ITEM_BITS[dtype]:
        raise ValueError(f"'{key}' has {end - begin} bytes, which is not {dtype} of shape {shape}")
    return TensorSite(
        file=file, key=key, dtype=dtype, shape=tuple(shape), start=data + begin, end=data + end
    )


def _check_cover(path: Path, sites: Iterable[TensorSite], data: int, size: int) -> None:
    """Refuse tensors that do not fill the file exactly, as the format demands.

    If two tensors overlapped, an edit of one would change both.
    """
    at = data
    for site in sorted(sites, key=lambda s: (s.start, s.end)):
        if site.start != at:
            problem = "overlaps another tensor" if site.start < at else "follows a gap"
            raise damaged(path, f"'{site.key}' {problem}")
        at = site.end
    if at != size:
        guess = ": an incomplete download?" if size < at else ""
        raise damaged(path, f"it has {size} bytes, but its header requires {at}{guess}")


def read_bytes(folder: Path, site: TensorSite) -> bytes:
    """The stored bytes of a tensor."""
    with open_regular(Path(folder, site.file)) as reader:
        reader.seek(site.start)
        data = reader.read(site.end - site.start)
    if len(data) != site.end - site.start:
        raise damaged(Path(folder, site.file), f"it ends within '{site.key}'")
    return data


def editable_dtype(site: TensorSite) -> str:
    """torch's name for the dtype in which a tensor is stored.

    Raises:
        ModelError: model.dtype: the dtype is not a plain floating-point one, as in quantised
            models.
    """
    if site.dtype not in TORCH_NAMES:
        raise ModelError(
            "model.dtype",
            f"'{site.key}' in {site.file} is stored as {site.dtype}, which cannot be edited",
            "edit the unquantised model: float32, float16 or bfloat16",
        )
    return TORCH_NAMES[site.dtype]


def refuse_quantised(component: str, sites: Iterable[TensorSite]) -> None:
    """Refuse a quantised component before it is loaded.

    Libraries silently convert float8 to float32, and then the edit could not be written back.
    Integers of 32 and 64 bits are accepted, because old text encoders store their position ids.

    Raises:
        ModelError: model.dtype.
    """
    for site in sites:
        if site.dtype not in (*TORCH_NAMES, "I32", "I64", "BOOL"):
            raise ModelError(
                "model.dtype",
                f"{component} is quantised: '{site.key}' in {site.file} is stored as {site.dtype}",
                "edit the unquantised model: float32, float16 or bfloat16",
            )
