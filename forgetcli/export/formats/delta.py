"""The edit alone: the new values of the changed tensors, from which ``forget apply --delta`` makes
the edited model anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from forgetcli.artifact import delta
from forgetcli.artifact.edited import Edited
from forgetcli.artifact.manifest import EditedTensor
from forgetcli.export.modelspec import modelspec
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer
from forgetcli.storage.safetensors_writer import Content

SUFFIX = ".safetensors"


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def write(edited: Edited, output: Path, options: Options, force: bool, observer: Observer) -> dict:
    """Values as they are stored, not differences: adding a difference would round again, and give
    other bytes.

    Figures: ``tensors``, their number.
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
