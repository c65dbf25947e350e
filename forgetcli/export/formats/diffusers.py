"""A plain diffusers folder: the edited model's files and its model card, without the files that
forget adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from forgetcli.artifact.edited import EditedModel
from forgetcli.errors import ModelError
from forgetcli.progress import Observer
from forgetcli.storage import atomic
from forgetcli.storage.copying import copy_file

SUFFIX = ""


class Options(BaseModel):
    """No settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def write(
    edited: EditedModel, output: Path, options: Options, force: bool, observer: Observer
) -> dict[str, Any]:
    """Copy the files, by reflink where the file system supports it.

    An existing folder is replaced only if it has forget's own mark. The folder that this function
    writes has no mark: a folder that could be the user's own model is never overwritten.

    Returns:
        ``files``: their number.
    Raises:
        ModelError: export.single-file: the base model was a single file; model.changed.
    """
    if edited.file:
        raise ModelError(
            "export.single-file",
            f"{edited.folder} was made of a single file: {edited.file}",
            'convert it: python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_single_file('{edited.file}', config='{edited.settings}')"
            f".save_pretrained('{output}')\"",
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
