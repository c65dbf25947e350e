"""Diffusion models in memory. Each model family is one module of `forgetcli.models.families` and
implements the protocol `families.Family`.

The families share the other modules of this package. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.models.families import Family, family_of, get
from forgetcli.models.families import names as family_names
from forgetcli.process.device import pick_device, pick_dtype

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel
    from forgetcli.progress import Observer

__all__ = ["Family", "family_names", "family_of", "get", "load"]


def load(
    base: Base,
    *,
    device: str | None = None,
    dtype: str | None = None,
    editable: bool = True,
    observer: Observer | None = None,
) -> LoadedModel:
    """Load a resolved model onto a device. Its weights are read when they are first needed.

    Args:
        device: default: the best one of this machine.
        dtype: one of `forgetcli.process.device.DTYPES`; default: float32.
        editable: refuse models that can generate images but cannot be edited.
        observer: receives a note on each setting of the model that is ignored or overridden.
    Raises:
        ModelError: the family, the device or the dtype is unknown; a component is missing or of an
            unknown class; the scheduler is unknown.
    """
    # Here because recipes are checked with the names of families, and need nothing else.
    from forgetcli.models import components

    family = get(family_of(base.settings))
    model = family.load(base, pick_device(device), pick_dtype(dtype))
    model.refuse_incomplete()
    if editable:
        model.refuse_scheduler()
    if observer is not None:
        for line in components.ignored_settings(base, model.index):
            observer.note(line)
    return model
