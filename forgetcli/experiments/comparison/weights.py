"""How much of a checkpoint an edit has changed, as it is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from forgetcli.artifact.manifest import Manifest
from forgetcli.checkpoint.base import INDEX, Base
from forgetcli.checkpoint.ldm_keys import EMA
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.storage.safetensors import (
    ITEM_BITS,
    TORCH_NAMES,
    TensorSite,
    read_bytes,
    read_header,
)


def changed_share(base: Base, edited: Path, manifest: Manifest) -> float:
    """The share of the model's parameters whose stored bits differ from the base's.

    All floating-point tensors of all components count, each in the form that loaders read by
    default.
    """
    sites = {(site.file, site.key): site for site in parameters(base)}
    touched = {(tensor.file, tensor.key) for tensor in manifest.edited} & sites.keys()
    changed = sum(differing(base.folder, edited, sites[key]) for key in touched)
    return changed / max(1, sum(math.prod(site.shape) for site in sites.values()))


def parameters(base: Base) -> Iterator[TensorSite]:
    """Every floating-point tensor of a diffusers folder, or of a single file but for its running
    averages.
    """
    if base.single:
        yield from (
            site
            for key, site in base.single.header.items()
            if site.dtype in TORCH_NAMES and not key.startswith(EMA)
        )
        return
    folder = base.folder
    for name, entry in json.loads((folder / INDEX).read_text(encoding="utf-8")).items():
        if (
            name.startswith("_")
            or not isinstance(entry, list)
            or not (folder / name / "config.json").is_file()
        ):
            continue  # no component, or one without weights
        files = weight_sets(folder, name)[0].files
        for file in [files] if isinstance(files, str) else sorted(set(files.values())):
            yield from (
                site
                for site in read_header(folder, f"{name}/{file}").values()
                if site.dtype in TORCH_NAMES
            )


def differing(before: Path, after: Path, site: TensorSite) -> int:
    """Values of one tensor whose bits differ."""
    import numpy as np

    a, b = (
        np.frombuffer(read_bytes(folder, site), f"u{ITEM_BITS[site.dtype] // 8}")
        for folder in (before, after)
    )
    return int((a != b).sum())
