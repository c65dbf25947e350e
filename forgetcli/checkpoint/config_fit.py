"""Whether a network's config can belong to its weights, by the numbers in both.

A config with a billion layers would fill the memory before a library compares it with the file. It
is therefore compared with the file's header first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgetcli.errors import counted
from forgetcli.storage.safetensors import TensorSite, damaged

# Settings that say how often a part of the network is repeated.
REPEATED = ("num_hidden_layers", "num_layers", "num_single_layers", "num_decoder_layers")
# The same within each block of a UNet or VAE; they multiply one another.
REPEATED_IN_BLOCK = (
    "layers_per_block",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "num_encoder_blocks",
    "num_decoder_blocks",
)
# Sizes without a tensor of that size in the file, such as image sizes, are below this.
LARGEST_SIZE = 2**20
POSITION_TABLE = "pos_embed.pos_embed"


def refuse_oversized(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorSite]
) -> None:
    """Refuse a config that asks for a network much larger than the weights.

    Args:
        path: the config's file, for the message.
        tensors: the component's tensors.
    Raises:
        ModelError: model.damaged.
    """
    lists = max((len(value) for _, value in _values(config) if isinstance(value, list)), default=1)
    repeated = 0
    in_block = 1
    for key, value in _values(config):
        numbers = list(_numbers(value))
        if key in REPEATED + REPEATED_IN_BLOCK and not all(_is_count(n) for n in numbers):
            raise damaged(path, f"{key} is {_short(value)}, which is no number of layers")
        largest = max((n for n in numbers if isinstance(n, int)), default=0)
        if key in REPEATED:
            repeated += largest
        elif key in REPEATED_IN_BLOCK:
            in_block *= max(largest, 1)
        _refuse_size(path, key, value, largest, tensors)
    asked = max(repeated, lists * in_block)
    if asked > len(tensors):
        raise damaged(
            path,
            f"it asks for {counted(asked, 'layer')}, but the weights have "
            f"{counted(len(tensors), 'tensor')}",
        )
    _refuse_positions(path, config, tensors)


def _refuse_size(
    path: Path, key: str, value: object, largest: int, tensors: Mapping[str, TensorSite]
) -> None:
    if largest <= LARGEST_SIZE:
        return
    sizes = [size for site in tensors.values() for size in site.shape]
    if largest > max(sizes, default=0):
        raise damaged(path, f"{key} is {_short(value)}, but no tensor has that size")


def _refuse_positions(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorSite]
) -> None:
    """Compare the table of an image's positions, which is computed with its full size."""
    table = tensors.get(POSITION_TABLE)
    if table is None or len(table.shape) != 3:
        # All networks without this table compute none.
        if config.get("pos_embed_max_size") is None:
            return
        raise damaged(path, f"it asks for '{POSITION_TABLE}', which the weights lack")
    side = config.get("pos_embed_max_size")
    if side is not None and (not _is_count(side) or side * side != table.shape[1]):
        raise damaged(
            path,
            f"pos_embed_max_size is {_short(side)}, but the weights have "
            f"{math.isqrt(table.shape[1])}² positions",
        )


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings, also those of inner tables, without what libraries note for themselves."""
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if isinstance(value, dict):
            yield from _values(value)
        else:
            yield key, value


def _numbers(value: Any) -> Iterator[Any]:
    """The numbers in a setting: itself, or the entries of a list at any depth. None is left out."""
    if isinstance(value, list):
        for entry in value:
            yield from _numbers(entry)
    elif value is not None:
        yield value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
