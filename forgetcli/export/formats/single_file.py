"""A whole checkpoint in one .safetensors file with the original code's names, as ComfyUI and A1111
load it.

Values are as stored, byte for byte; only names and, where the original code has a convolution for a
matrix, shapes differ.
Written tensor by tensor from the folder's files, so a model of any size takes a few megabytes of
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from forgetcli.artifact.edited import Edited
from forgetcli.checkpoint.ldm_layout import Layout, Place
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.export.modelspec import modelspec
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer
from forgetcli.storage.safetensors import (
    ITEM_BITS,
    TensorSite,
    read_bytes,
    read_header,
)
from forgetcli.storage.safetensors_writer import Content

SUFFIX = ".safetensors"
SOURCES = {
    False: "https://github.com/CompVis/stable-diffusion",
    True: "https://github.com/Stability-AI/generative-models",
}


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def write(edited: Edited, output: Path, options: Options, force: bool, observer: Observer) -> dict:
    """Figures: ``tensors``, their number.

    Raises:
        ModelError: export.no-single-file: the family has no such form; export.single-file: it is
            one already; model.changed.
    """
    if edited.file:
        raise ModelError(
            "export.single-file",
            f"{edited.folder} was made of a single file, and is one: {edited.file}",
            "load it as it is in ComfyUI or A1111",
        )
    configs = {
        name: edited.config(name) for name in ("text_encoder", "text_encoder_2", "unet", "vae")
    }
    layout = Layout(str(edited.index.get("_class_name")), configs)
    observer.stage("checking")
    _ = edited.files
    contents = _contents(edited.folder, layout)
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


def _contents(folder: Path, layout: Layout) -> dict[str, Content]:
    found: dict[str, list[tuple[Place, TensorSite]]] = {}
    for component in layout.components:
        for site in _sites(folder, component):
            place = layout.place(component, site.key)
            if place is not None:
                found.setdefault(place.key, []).append((place, site))
    return {
        key: _content(folder, key, sorted(parts, key=lambda p: p[0].part))
        for key, parts in found.items()
    }


def _sites(folder: Path, component: str) -> Iterator[TensorSite]:
    """The tensors of a component in the form that loaders read by default."""
    weights = weight_sets(folder, component)[0].files
    for file in [weights] if isinstance(weights, str) else sorted(set(weights.values())):
        header = read_header(folder, f"{component}/{file}")
        yield from (
            site
            for key, site in header.items()
            if isinstance(weights, str) or weights.get(key) == file
        )


def _content(folder: Path, key: str, parts: list[tuple[Place, TensorSite]]) -> Content:
    place, first = parts[0]
    if len(parts) != place.parts or any(
        site.dtype != first.dtype or site.shape[1:] != first.shape[1:] for _, site in parts
    ):
        raise ModelError(
            "model.damaged",
            f"{folder}: {', '.join(site.key for _, site in parts)} do not make up '{key}'",
            "fetch the model again",
        )
    shape = (sum(site.shape[0] for _, site in parts), *first.shape[1:]) if first.shape else ()
    if place.transposed:
        return Content(first.dtype, shape[::-1], lambda: (_transposed(folder, first),))
    if place.convolution and len(shape) == 2:
        shape = (*shape, 1, 1)
    return safetensors_writer.of_sites(folder, [site for _, site in parts], shape)


def _transposed(folder: Path, site: TensorSite) -> bytes:
    import numpy

    width = ITEM_BITS[site.dtype] // 8
    items = numpy.frombuffer(read_bytes(folder, site), dtype=f"V{width}")
    return items.reshape(site.shape).T.tobytes()  # row-major, whatever the order in memory
