"""Tensors from the bytes of safetensors files: the boundary between storage and torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.storage.safetensors import (
    TORCH_NAMES,
    TensorSite,
    WeightFile,
    editable_dtype,
    read_bytes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.checkpoint.single_file import SingleFile


def read_tensor(source: Path | WeightFile, site: TensorSite) -> Tensor:
    """The tensor at `site`, in the dtype in which it is stored, on the CPU.

    Args:
        source: the model's folder, or the weight file that has the tensor.
    Raises:
        ModelError: model.dtype: the dtype is not float64, float32, float16 or bfloat16.
    """
    # Refuses other dtypes.
    editable_dtype(site)
    folder = source.folder if isinstance(source, WeightFile) else source
    return from_bytes(read_bytes(folder, site), site.dtype, site.shape)


def from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor on the CPU from its bytes, row-major and little-endian.

    Args:
        dtype: one of `TORCH_NAMES`, as safetensors writes it: ``F16``.
    """
    # Imported here: commands that only verify or list a model seldom read a tensor.
    import torch

    torch_dtype = getattr(torch, TORCH_NAMES[dtype])
    if not data:  # frombuffer refuses an empty buffer
        return torch.empty(shape, dtype=torch_dtype)
    # A bytearray, because torch warns of tensors that share memory with immutable bytes.
    return torch.frombuffer(bytearray(data), dtype=torch_dtype).reshape(shape)


def read_parameter(file: SingleFile, component: str, parameter: str) -> Tensor:
    """A parameter's values in a single file, in the dtype in which they are stored, on the CPU.

    Matrices that the file stores transposed are transposed back. Otherwise the shape is the file's.

    Raises:
        ModelError: model.no-tensor, model.dtype.
    """
    site, transposed = file.stored(component, parameter)
    values = read_tensor(file.folder, site)
    return values.T.contiguous() if transposed else values
