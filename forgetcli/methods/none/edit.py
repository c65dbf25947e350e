"""The control's edit, which changes nothing."""

from __future__ import annotations

from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.methods.none import Parameters
from forgetcli.models.base import LoadedModel
from forgetcli.progress import Observer


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """Return no new weights."""
    return Edit({})
