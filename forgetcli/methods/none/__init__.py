"""The control: nothing is edited. The unedited model passes through the same steps as an edited
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from forgetcli.editing.cost import Cost

if TYPE_CHECKING:
    from forgetcli.editing.task import Task


class Parameters(BaseModel):
    """The control has no parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def cost(task: Task, parameters: Parameters) -> Cost:
    """The control does not run the model."""
    return Cost()
