"""The small JSON files of a model's components, as the classes of diffusers and transformers get
them: without settings that make these libraries import code or read other files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from forgetcli.errors import ModelError
from forgetcli.storage.files import read_regular
from forgetcli.storage.json import decode
from forgetcli.storage.safetensors import FETCH_AGAIN, damaged

LARGEST = 16 * 2**20  # bytes of a file of settings; published ones have a few kilobytes
FILES = ("config.json", "scheduler_config.json", "tokenizer_config.json")
GIT_LFS = b"version https://git-lfs"
# Settings that name code, kernels on the hub, or another format of the weights. Files that forget
# reads need none of them.
UNUSED = (
    "auto_map",
    "code_revision",
    "custom_object",
    "custom_pipelines",
    "experts_implementation",
    "adapter_kwargs",
    "quantization_config",
    "trust_remote_code",
    "use_kernels",
    "use_safetensors",
)
ATTENTION = "attn_implementation"  # with any prefix and ending; may name a kernel on the hub
# Tokenizers read the files that these settings name, wherever they are.
FILE_NAMES = ("vocab_file", "merges_file", "tokenizer_file", "spm_file", "added_tokens_file")


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file.

    Raises:
        ValueError: it is not valid JSON in UTF-8, or no table.
        ModelError: model.damaged: it is a git-lfs pointer; model.unreadable.
    """
    try:
        data = read_regular(path, LARGEST)
    except OSError as fault:
        raise ModelError(
            "model.unreadable", f"cannot read {path}: {fault.strerror or fault}", FETCH_AGAIN
        ) from fault
    refuse_pointer(path, data)
    entries = decode(data)
    if not isinstance(entries, dict):
        raise ValueError("it is no table")
    return entries


def refuse_pointer(path: Path, head: bytes) -> None:
    """Refuse a file that git-lfs has not fetched.

    Args:
        head: the file's first bytes.
    Raises:
        ModelError: model.damaged.
    """
    if head.startswith(GIT_LFS):
        raise ModelError(
            "model.damaged",
            f"{path} is a git-lfs pointer, not the file",
            "run 'git lfs pull' in the model's folder",
        )


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a component's JSON file that forget uses.

    Raises:
        ModelError: model.damaged: it is not valid JSON; model.unreadable.
    """
    return used(_read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as fault:
        raise damaged(path, f"it is not valid ({str(fault)[:200]})") from fault


def used(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` without the unused ones, also in inner tables."""
    return {
        key: used(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if not _is_unused(key, value)
    }


def unused(settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that `used` leaves out, sorted."""
    names = {key for key, value in settings.items() if _is_unused(key, value)}
    for key, value in settings.items():
        if isinstance(value, dict) and key not in names:
            names.update(unused(value))
    return sorted(names)


def unused_settings(folder: Path, components: Iterable[str]) -> list[str]:
    """What is ignored in the settings of a model, one line a file.

    Raises:
        ModelError: model.damaged: a file is not valid JSON; model.unreadable.
    """
    lines = []
    for component in components:
        for file in FILES:
            path = folder / component / file
            names = unused(_read(path)) if path.is_file() else []
            if names:
                lines.append(f"ignored in {component}/{file}: {', '.join(names)}")
    return lines


def _is_unused(key: str, value: Any) -> bool:
    if value is None:
        return False
    return key in UNUSED or key in FILE_NAMES or ATTENTION in key
