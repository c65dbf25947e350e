"""Feature extractors: one file each; quality measures compare pictures by what an extractor sees in them.

An extractor is a module, here or behind an entry point of the group ``forgetcli.features``, with
``load(device) -> extractor``; the extractor has

    size                            d, the number of features
    identity() -> dict              name and weight digest: recorded with every figure
    vectors(pictures) -> Tensor     uint8 (n, 3, h, w) → float (n, d): for FID and KID
    distances(a, b) -> Tensor       two such batches → (n,): a perceptual distance between pictures, LPIPS or its like
"""
from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from importlib.metadata import entry_points

from forgetcli.errors import ForgetError

GROUP = "forgetcli.features"


def names() -> list[str]:
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} | {p.name for p in entry_points(group=GROUP)})


def load(name: str, device: str | None = None):
    """The extractor called `name`.

    Raises:
        ForgetError: there is none.
    """
    if name not in names():
        near = get_close_matches(name, names(), 1)
        raise ForgetError("features.unknown", f"there is no feature extractor '{name}'",
                          f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names())}")
    outside = {p.name: p for p in entry_points(group=GROUP)}
    module = outside[name].load() if name in outside else importlib.import_module(f"{__name__}.{name}")
    return module.load(device)
