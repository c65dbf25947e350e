"""Writes safetensors files piece by piece, so that no tensor or model must fit into memory.

The safetensors package needs all tensors at once, and gives its files mode 0600 for every umask.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from forgetcli.errors import ModelError
from forgetcli.storage.files import open_regular
from forgetcli.storage.safetensors import ITEM_BITS, TensorSite

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 8 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Content:
    """A tensor to write.

    Attributes:
        dtype: in the spelling of safetensors, such as ``F16``.
        shape: the tensor's shape.
        pieces: returns the tensor's bytes in order, row-major and little-endian.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[bytes]]

    @property
    def size(self) -> int:
        return prod(self.shape) * ITEM_BITS[self.dtype] // 8


def of_bytes(dtype: str, shape: tuple[int, ...], data: bytes) -> Content:
    return Content(dtype, shape, lambda: (data,))


def of_floats(tensor: Tensor) -> Content:
    """A tensor's values as float32."""
    return of_bytes(
        "F32", tuple(tensor.shape), tensor.float().contiguous().numpy().astype("<f4").tobytes()
    )


def of_sites(folder: Path, sites: Iterable[TensorSite], shape: tuple[int, ...]) -> Content:
    """The concatenation of stored tensors along the first axis, read only while it is written."""
    sites = tuple(sites)

    def pieces() -> Iterator[bytes]:
        for site in sites:
            with open_regular(Path(folder, site.file)) as reader:
                reader.seek(site.start)
                left = site.end - site.start
                while left and (piece := reader.read(min(CHUNK, left))):
                    left -= len(piece)
                    yield piece

    return Content(sites[0].dtype, shape, pieces)


def write(
    writer: BinaryIO,
    tensors: Mapping[str, Content],
    metadata: Mapping[str, str],
    *,
    compact: bool = True,
) -> None:
    """Write a whole safetensors file.

    Args:
        compact: write the header without spaces, and in UTF-8 instead of escapes. Ledgers have had
            spaces and escapes since their first version, and their bytes must not change.
    Raises:
        ModelError: model.changed: a tensor's number of bytes does not fit its dtype and shape.
    """
    # The widest dtypes come first, as in files of the safetensors package: every tensor then begins
    # at a multiple of its item size.
    ordered = sorted(tensors.items(), key=lambda item: (-ITEM_BITS[item[1].dtype], item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, content in ordered:
        header[name] = {
            "dtype": content.dtype,
            "shape": list(content.shape),
            "data_offsets": [at, at + content.size],
        }
        at += content.size
    if compact:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    else:
        text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    writer.write(struct.pack("<Q", len(text)) + text)
    for name, content in ordered:
        written = sum(writer.write(piece) for piece in content.pieces())
        if written != content.size:
            raise ModelError(
                "model.changed",
                f"'{name}' has {written} bytes, not {content.size}: "
                "its source file was changed in the meantime",
            )
