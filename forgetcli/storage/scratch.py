"""Folders for a command's temporary files, in the system's temporary folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forgetcli.storage.atomic import output_faults
from forgetcli.storage.workspace import Workspace, collect


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Create an empty folder, and remove it when the block ends.

    Folders that killed runs have left are removed first. They are recognised by their free locks.
    Folders of `tempfile` have no locks, so abandoned ones could not be recognised.

    Args:
        purpose: a word for the folder's name.
    Raises:
        OutputError: the folder cannot be created.
    """
    parent = Path(os.path.realpath(tempfile.gettempdir()))
    workspace = Workspace(parent / f"forget-{purpose}")
    try:
        with output_faults(parent, remedy="set TMPDIR to a folder on another disk"):
            with suppress(PermissionError):  # the temporary folder may not be listed
                collect(parent, workspace.target.name)
            workspace.create()
            os.mkdir(workspace.new)
        yield workspace.new
    finally:
        workspace.remove()
