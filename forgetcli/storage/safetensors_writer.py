"""Safetensors files written piece by piece: no tensor needs to be in memory, and a model never is.

The safetensors package wants all tensors at once, and gives its files mode 0600 whatever the umask.
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
    """A tensor to be written.

    Attributes:
        dtype: as safetensors writes it: ``F16``.
        shape: the tensor's sizes.
        pieces: returns its bytes in order, row-major and little-endian.
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
    """Tensors of files in `folder`, concatenated along the first axis, read as they are written."""
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
        compact: the header has no spaces, and UTF-8 instead of escapes. Ledgers are written with
            spaces and escapes since their first version, and stay byte for byte the same.
    Raises:
        ModelError: model.changed: a tensor has not as many bytes as its dtype and shape say.
    """
    # The widest dtypes first, as the safetensors package has it: every tensor then begins at a
    # multiple of its item size.
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
                "the file it comes from was changed meanwhile",
            )
