"""A model is what its folder holds: no link in it and no name in its indices leads out of it.

Whatever belongs to a model is copied into the edited model, which may be published. A model from
elsewhere must therefore not name files of its reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from forgetcli.errors import ModelError
from forgetcli.storage.files import inside, is_plain_name, refuse_special


def check_folder(folder: Path, is_part: Callable[[str], bool]) -> None:
    """Check that every part of a model in `folder` is a file, in that folder.

    Files of the hub's cache are links to its blobs, which is allowed.

    Args:
        is_part: whether a relative posix path is part of the model. Others are not looked at.
    Raises:
        ModelError: file.outside, file.not-regular; model.damaged for a link to nothing.
    """
    for path, is_folder in _entries(folder, is_part):
        if path.is_symlink():
            inside(folder, path)
        if is_folder:
            continue
        try:
            refuse_special(path, os.stat(path).st_mode)
        except OSError as fault:
            raise ModelError(
                "model.damaged",
                f"{path} cannot be read: {fault.strerror or fault}",
                "fetch the model again",
            ) from fault


def _entries(folder: Path, is_part: Callable[[str], bool]) -> Iterator[tuple[Path, bool]]:
    """The parts of a model, and the folders that can have some; True for folders.

    Folders behind links are not entered: they lie in `folder`, or are refused.
    """
    for place, folders, files in os.walk(folder):
        relative = Path(place).relative_to(folder)
        # A folder counts as part if a file in it would.
        folders[:] = sorted(name for name in folders if is_part((relative / name / "x").as_posix()))
        for name in folders:
            yield Path(place, name), True
        for name in sorted(files):
            if is_part((relative / name).as_posix()):
                yield Path(place, name), False


def check_component_name(index: Path, name: str) -> None:
    """Check that a component's name in `index` is a folder's name, not a path.

    Raises:
        ModelError: file.outside.
    """
    if not is_plain_name(name):
        raise ModelError(
            "file.outside",
            f"{index} names the component {name[:100]!r}, which is not a plain folder name",
            "do not use this model: the name leads out of its folder",
        )
