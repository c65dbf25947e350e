"""The diffusers format: a folder with the edited model's files and its model card, but without the
files that forget adds.
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
    """Copy the files, as reflinks if the file system supports it.

    An existing folder is replaced only if it has forget's manifest. The folder that this function
    writes has none, so it is never replaced: it could be the user's own model.

    Returns:
        ``files``: the number of files.
    Raises:
        ModelError: export.single-file: the base model was a single file; model.changed.
    """
    if edited.file:
        raise ModelError(
            "export.single-file",
            f"{edited.folder} was made from a single file: {edited.file}",
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
