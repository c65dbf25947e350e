"""A folder for a command's own temporary files, in the system's temporary folder."""

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
    """An empty folder, which is removed when the block ends.

    Those that killed runs have left are removed first: their locks are free. (What `tempfile`
    makes has no lock, and nobody could tell.)

    Args:
        purpose: a word for its name.
    Raises:
        OutputError: it cannot be made.
    """
    place = Path(os.path.realpath(tempfile.gettempdir()))
    workspace = Workspace(place / f"forget-{purpose}")
    try:
        with output_faults(place, remedy="set TMPDIR to a folder on another disk"):
            with suppress(PermissionError):  # a temporary folder that may not be listed
                collect(place, workspace.target.name)
            workspace.create()
            os.mkdir(workspace.new)
        yield workspace.new
    finally:
        workspace.remove()
