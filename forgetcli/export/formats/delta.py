"""The delta format: only the new values of the changed tensors.

``forget apply --delta`` makes the same edited model again from the delta and the base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from forgetcli.artifact import delta
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.export.modelspec import modelspec
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer
from forgetcli.storage.safetensors_writer import Content

SUFFIX = ".safetensors"


class Options(BaseModel):
    """No settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def write(
    edited: EditedModel, output: Path, options: Options, force: bool, observer: Observer
) -> dict[str, Any]:
    """Write the stored values of the changed tensors.

    Differences are not written, because adding a difference would round again and change bytes.

    Returns:
        ``tensors``: the number of tensors.
    """

    def values(tensor: EditedTensor) -> Iterator[bytes]:
        yield edited.after(tensor)
        observer.advance()

    tensors = {
        delta.name_of(tensor): Content(
            tensor.dtype, edited.site(tensor).shape, partial(values, tensor)
        )
        for tensor in edited.manifest.edited
    }
    texts, others = delta.own_files(edited)
    observer.stage("writing", len(tensors))
    with atomic.publishing_file(output, force=force) as writer:
        safetensors_writer.write(writer, tensors | others, modelspec(edited, "delta") | texts)
    return {"tensors": len(tensors)}
