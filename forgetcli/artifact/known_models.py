"""The models that `--model` accepts by name on this machine, apart from paths and hub ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetcli.artifact import manifest as manifests
from forgetcli.bundled.demo import DESCRIPTION, MODEL
from forgetcli.checkpoint.base import INDEX, resolve
from forgetcli.errors import ForgetError
from forgetcli.models.families import family_of

EDITED = "edited by forget in this folder"
UNEDITED = "in this folder, without an edit: the base model's weights"


@dataclass(frozen=True)
class KnownModel:
    """A model with a name.

    Attributes:
        name: what `--model` accepts.
        family: the model's family.
        path: the model's folder.
        description: one phrase for the list.
    """

    name: str
    family: str
    path: Path
    description: str


def known() -> list[KnownModel]:
    """The embedded model, then the edited folders in the working directory.

    Folders that cannot be read are left out.
    """
    models = []
    if (MODEL / INDEX).exists():
        models.append(KnownModel("demo", "sd", MODEL, DESCRIPTION))
    for file in sorted(Path.cwd().glob(f"*/{manifests.MANIFEST}")):
        folder = file.parent
        try:
            edited = manifests.load(folder).edited
            family = family_of(resolve(folder).settings)
        except (ForgetError, OSError, ValueError, KeyError):
            continue
        # A folder keeps its manifest when its last edit is taken out.
        description = EDITED if edited else UNEDITED
        models.append(KnownModel(f"{folder.name}/", family, folder, description))
    return models
