"""``--dry-run`` of the commands that make several edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from forgetcli.cli.edit_tables import preview
from forgetcli.cli.sink import Sink

if TYPE_CHECKING:
    from types import ModuleType

    from forgetcli.experiments.preview import Preview


def show(sink: Sink, plan: Callable[[ModuleType], Preview]) -> None:
    """Print what a command would do.

    Args:
        plan: makes it, given the module `forgetcli.experiments.preview`.
    """
    with sink.observer():
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.experiments import preview as previews

        planned = plan(previews).as_dict()
    sink.result(planned, human=lambda: preview(planned), quiet=())
