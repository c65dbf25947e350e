"""The single-file format: a whole checkpoint in one .safetensors file with the tensor names of the
original code, as ComfyUI and A1111 load it.

Values are copied byte for byte. Names differ from the diffusers folder, and so do shapes where the
original code has a convolution instead of a matrix. Tensors are copied one by one, so a few
megabytes of memory are enough for a model of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
from pydantic import BaseModel, ConfigDict

from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import prediction
from forgetcli.checkpoint.ldm import Layout, Place
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.export.modelspec import modelspec
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer
from forgetcli.storage.safetensors import (
    ITEM_BITS,
    TensorSite,
    read_bytes,
)
from forgetcli.storage.safetensors_writer import Content

SUFFIX = ".safetensors"
# The repository of the original code, by whether the model is SDXL.
SOURCES = {
    False: "https://github.com/CompVis/stable-diffusion",
    True: "https://github.com/Stability-AI/generative-models",
}


class Options(BaseModel):
    """No settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def write(
    edited: EditedModel, output: Path, options: Options, force: bool, observer: Observer
) -> dict[str, Any]:
    """Write the checkpoint.

    Returns:
        ``tensors``: the number of tensors.
    Raises:
        ModelError: export.no-single-file: the family has no single-file format;
            export.single-file: the edited model is a single file already; model.changed.
    """
    if edited.file:
        raise ModelError(
            "export.single-file",
            f"{edited.folder} was made from a single file and has one already: {edited.file}",
            "load that file in ComfyUI or A1111",
        )
    configs = {
        name: edited.config(name) for name in ("text_encoder", "text_encoder_2", "unet", "vae")
    }
    layout = Layout(str(edited.index.get("_class_name")), configs)
    observer.stage("checking")
    # Reading this property verifies the digests of all files.
    _ = edited.files
    contents = _contents(edited, layout) | _marks(edited)
    observer.stage("writing")
    metadata = {
        **modelspec(edited, implementation=SOURCES[layout.xl]),
        "format": "pt",
        "forget.base": edited.manifest.base,
        "forget.base_digest": edited.manifest.base_digest,
    }
    with atomic.publishing_file(output, force=force) as writer:
        safetensors_writer.write(writer, contents, metadata)
    return {"tensors": len(contents)}


def _contents(edited: EditedModel, layout: Layout) -> dict[str, Content]:
    """The checkpoint's tensors by key."""
    parts_of: dict[str, list[tuple[Place, TensorSite]]] = {}
    for component in layout.components:
        for site in _sites(edited, component):
            place = layout.place(component, site.key)
            if place is not None:
                parts_of.setdefault(place.key, []).append((place, site))
    return {
        key: _content(edited.folder, key, sorted(parts, key=lambda entry: entry[0].third or 0))
        for key, parts in parts_of.items()
    }


def _marks(edited: EditedModel) -> dict[str, Content]:
    """Empty tensors whose names say what the model predicts."""
    return {
        name: safetensors_writer.of_bytes("F32", (0,), b"")
        for name in prediction.marks(edited.config("scheduler"))
    }


def _sites(edited: EditedModel, component: str) -> Iterator[TensorSite]:
    """The tensors of a component, in the variant that loaders read by default."""
    weights = weight_sets(edited.folder, component)[0]
    for file in weights.names:
        for key, site in edited.weight_file(f"{component}/{file}").sites.items():
            # Loaders ignore a tensor in a shard if the index assigns it to another shard.
            if isinstance(weights.files, str) or weights.files.get(key) == file:
                yield site


def _content(folder: Path, key: str, parts: list[tuple[Place, TensorSite]]) -> Content:
    """One tensor of the checkpoint, concatenated from its parts in the folder.

    Raises:
        ModelError: model.damaged: a part is missing, or the parts do not fit together.
    """
    place, first = parts[0]
    # q, k and v are three parts of one tensor in the original code.
    expected_parts = 1 if place.third is None else 3
    if len(parts) != expected_parts or any(
        site.dtype != first.dtype or site.shape[1:] != first.shape[1:] for _, site in parts
    ):
        raise ModelError(
            "model.damaged",
            f"{folder}: {', '.join(site.key for _, site in parts)} do not make up '{key}'",
            "fetch the model again",
        )
    shape: tuple[int, ...] = ()
    if first.shape:
        shape = (sum(site.shape[0] for _, site in parts), *first.shape[1:])
    if place.transposed:
        return Content(first.dtype, shape[::-1], lambda: (_transposed(folder, first),))
    if place.convolution and len(shape) == 2:
        shape = (*shape, 1, 1)
    return safetensors_writer.of_sites(folder, [site for _, site in parts], shape)


def _transposed(folder: Path, site: TensorSite) -> bytes:
    """The bytes of the transposed matrix, row-major."""
    item_bytes = ITEM_BITS[site.dtype] // 8
    # Raw items without a numeric type, because numpy has no bfloat16.
    items = numpy.frombuffer(read_bytes(folder, site), dtype=f"V{item_bytes}")
    return items.reshape(site.shape).T.tobytes()
