"""A plain diffusers folder: the model's files with the edit in them, the model card if there is
one, and nothing of forget's.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from forgetcli.artifact.edited import Edited
from forgetcli.errors import ModelError
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.copying import copy_file

SUFFIX = ""


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def write(edited: Edited, output: Path, options: Options, force: bool, observer: Observer) -> dict:
    """Copies, by reflink where the file system can. An existing folder is replaced only if forget's
    own mark is in it,
    which it is not in what this writes: a folder that looks like a model of the user's is never
    overwritten.

    Raises:
        ModelError: export.single-file: the base was a single file; model.changed.
    """
    if edited.file:
        raise ModelError(
            "export.single-file",
            f"{edited.folder} was made of a single file: {edited.file}",
            'convert it: python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_single_file('{edited.file}', config='{edited.settings}').save_pretrained('{output}')\"",
        )
    with atomic.publishing(output, force=force) as staging:
        observer.stage("checking")
        files = edited.files
        observer.stage("copying", len(files))
        for path in files:
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(edited.folder / path, target)
            observer.advance()
    return {"files": len(files)}
