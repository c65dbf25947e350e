"""An edited model on the hub, named ``org/name`` or ``org/name@revision``.

Its files are data. The whole repository is fetched, so that a check sees every file of it, and
nothing that is in it decides what else is fetched: its base is used only if the user names it or if
it is on this machine already.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import MANIFEST
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub

EDITED = hub.Kind(
    noun="edited model ",
    index=MANIFEST,
    patterns=("*",),
    extra=(),
    copies=(),
    copies_suffice=False,
    revision_option="@REVISION",
    suggests=False,
)


@dataclass(frozen=True)
class Published:
    """An edited model in the hub's cache.

    Attributes:
        name: ``org/name@commit``.
        model: the model; its manifest has been read.
    """

    name: str
    model: EditedModel


def is_name(text: str) -> bool:
    """Whether `text` means a repository: the name of one, and no folder here."""
    return hub.NAME.fullmatch(text) is not None and not Path(text).exists()


def fetched(name: str, base: str | None = None) -> Published:
    """Fetch an edited model from the hub, unless all its files are in the cache.

    Args:
        base: the unedited model, if the user names it.
    Raises:
        ModelError: model.not-found, model.gated; those of `manifest.load`.
    """
    match = hub.NAME.fullmatch(name)
    if match is None:
        raise ModelError(
            "model.not-found", f"'{name}' is not the name of a repository", "give org/name"
        )
    folder = hub.snapshot(match["id"], match["revision"], _is_complete, kind=EDITED)
    commit = folder.name if folder.parent.name == "snapshots" else match["revision"]
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            "model.not-edited",
            f"{name} was not made by forget: it has no {MANIFEST}",
            "give the name of an edited model",
        )
    model = EditedModel(folder, base, foreign=True)
    _ = model.manifest
    return Published(f"{match['id']}@{commit}" if commit else match["id"], model)


def _is_complete(folder: Path) -> bool:
    try:
        subjects = EditedModel(folder).manifest.subjects
    except ForgetError:
        return False
    return all((folder / path).is_file() for path in subjects)
