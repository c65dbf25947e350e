"""The fraction of a checkpoint's stored values that an edit has changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forgetcli.artifact.manifest import Manifest
from forgetcli.checkpoint.base import INDEX, Base
from forgetcli.checkpoint.ldm import EMA
from forgetcli.storage.safetensors import (
    ITEM_BITS,
    TORCH_NAMES,
    TensorSite,
    read_bytes,
)


def changed_share(base: Base, edited: Path, manifest: Manifest) -> float:
    """The fraction of the model's parameters whose stored bits differ from the base model's.

    All floating-point tensors of all components count. If a component has several variants of its
    weights, only the variant that loaders read by default counts.
    """
    sites = {(site.file, site.key): site for site in parameters(base)}
    listed = {(tensor.file, tensor.key) for tensor in manifest.edited} & sites.keys()
    changed = sum(differing(base.folder, edited, sites[key]) for key in listed)
    return changed / max(1, sum(math.prod(site.shape) for site in sites.values()))


def parameters(base: Base) -> Iterator[TensorSite]:
    """All floating-point tensors of a model. The EMA weights of a single file are left out."""
    if base.single:
        for key, site in base.single.header.items():
            if site.dtype in TORCH_NAMES and not key.startswith(EMA):
                yield site
        return
    for component in weighted_components(base.folder):
        files = base.weight_sets(component)[0].files
        for file in [files] if isinstance(files, str) else sorted(set(files.values())):
            for site in base.weight_file(f"{component}/{file}").sites.values():
                if site.dtype in TORCH_NAMES:
                    yield site


def weighted_components(folder: Path) -> Iterator[str]:
    """The components of a diffusers folder that have weights."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name, entry in index.items():
        is_component = not name.startswith("_") and isinstance(entry, list)
        if is_component and (folder / name / "config.json").is_file():
            yield name


def differing(before: Path, after: Path, site: TensorSite) -> int:
    """The number of values of one tensor whose bits differ."""
    item = f"u{ITEM_BITS[site.dtype] // 8}"
    a, b = (np.frombuffer(read_bytes(folder, site), item) for folder in (before, after))
    return int((a != b).sum())
