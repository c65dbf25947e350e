"""Diffusion models in memory. Each model family is one module of `forgetcli.models.families` and
implements the protocol `families.Family`.

The families share the other modules of this package. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetcli.models.families import Family, family_of, get
from forgetcli.models.families import names as family_names
from forgetcli.process.device import AUTO, MIXED, default_dtype, pick_device, pick_dtypes

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.models.base import LoadedModel
    from forgetcli.progress import Observer

__all__ = ["Family", "dtype_of", "family_names", "family_of", "get", "image_dtype", "load"]


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
        dtype: see `dtype_of`.
        editable: the model is edited or attacked. Refuse models that can generate images but cannot
            be edited.
        observer: receives a note on each setting of the model that is ignored or overridden.
    Raises:
        ModelError: the family, the device or the dtype is unknown; a component is missing or of an
            unknown class; the scheduler is unknown.
    """
    # Here because recipes are checked with the names of families, and need nothing else.
    from forgetcli.models import components

    family = get(family_of(base.settings))
    place = pick_device(device)
    dtypes = pick_dtypes(dtype_of(base, place.type, dtype, exact=editable))
    model = family.load(base, place, dtypes.others)
    model.encoder_dtype = dtypes.encoders
    model.refuse_incomplete()
    if editable:
        model.refuse_scheduler()
    if observer is not None:
        for line in components.ignored_settings(base, model.index):
            observer.note(line)
    return model


def dtype_of(base: Base, device: str, name: str | None = None, *, exact: bool = True) -> str:
    """The dtype that a model runs in, one of `forgetcli.process.device.DTYPES`.

    Args:
        device: the device's type.
        name: the requested dtype; None or `auto`: see `forgetcli.process.device.default_dtype`.
        exact: the model is edited or attacked.
    """
    if name not in (None, AUTO):
        return str(name)
    if device != "cuda":
        return default_dtype(device, "", "", 0, exact=exact)
    # Here because recipes are checked with the names of families, and need nothing else.
    from forgetcli.models import components

    stored, parameters = components.stored_denoiser(base)
    half = getattr(get(family_of(base.settings)), "HALF", "float16")
    return default_dtype(device, half, stored, parameters, exact=exact)


def image_dtype(base: Base, device: str | None, name: str | None = None) -> str:
    """The dtype in which a model generates images: float32, float16 or bfloat16.

    Args:
        device: None: the best one of this machine.
        name: as for `dtype_of`; `mixed` is for edits, and bfloat16 for images.
    """
    if name not in (None, AUTO, MIXED):
        return str(name)
    return "bfloat16" if name == MIXED else dtype_of(base, pick_device(device).type, exact=False)
