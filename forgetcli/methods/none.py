"""The control: nothing is edited. The unedited model goes through the same steps as every method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.pipeline.estimates import Work
    from forgetcli.progress import Observer


class Parameters(BaseModel):
    """It has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """No new weights."""
    from forgetcli.editing.edit import Edit

    return Edit({})


def work(task: Task, parameters: Parameters) -> Work:
    """Nothing."""
    from forgetcli.pipeline.estimates import Work

    return Work()
