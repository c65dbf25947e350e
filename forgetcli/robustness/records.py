"""Outcomes and conditionings on disk.

Each outcome has its own file, so that an interrupted run can continue. The conditionings that an
attack found are stored as safetensors, so that they can be replayed with other models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from forgetcli.errors import ForgetError
from forgetcli.generation.images import png_bytes
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.results import JudgedAttempt, Outcome
from forgetcli.storage import atomic
from forgetcli.storage import json as plain_json
from forgetcli.storage.files import is_plain_name, is_regular, read_regular

MAX_RECORD_BYTES = 16 << 20
MAX_REPLAY_BYTES = 64 << 20  # a context of the largest family has 8 MB
LONGEST_REASON = 200  # characters of a library's error message
METADATA_KEY = "forget.found"  # the key of a file's metadata with the list of its conditionings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Attempt(_Strict):
    prompt: str
    variant: str
    seed: int
    file: str
    seen: bool
    judged: str
    score: float
    candidates: int = Field(ge=0)


class _Record(_Strict):
    """The content of an outcome's file. `counted` is missing: it follows from another outcome."""

    identity: str
    attempts: list[_Attempt]
    budget: dict[str, float]
    replay: bool


class _Entry(_Strict):
    """One conditioning; `parts` are the names of its tensors."""

    prompt: str
    seed: int
    parts: list[str]


class _Index(_Strict):
    """The list of conditionings in a file's metadata, and the attack and concept they are from."""

    found: list[_Entry] = Field(min_length=1)
    concept: str
    label: str
    rivals: list[str]
    attack: str


def digest(identity: Mapping[str, Any]) -> str:
    """The SHA-256 of everything that an outcome depends on."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def stem(attack: str, label: str) -> str:
    """The name of an outcome's files without suffix. It differs for different labels."""
    plain = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    if plain != label:
        plain += "-" + hashlib.sha256(label.encode()).hexdigest()[:6]
    return f"{attack}-{plain}"


def read(
    folder: Path, name: str, identity: str
) -> tuple[list[JudgedAttempt], dict, Path | None] | None:
    """An outcome of an earlier run with this identity: attempts, budget and replay file.

    Returns None if there is no such outcome or any of its files is damaged. The attack then has to
    run again.
    """
    try:
        data = read_regular(folder / f"{name}.json", MAX_RECORD_BYTES)
        record = _Record.model_validate(plain_json.decode(data))
    except (OSError, ValueError, ForgetError):
        return None
    replay = folder / f"{name}.safetensors" if record.replay else None
    files = [attempt.file for attempt in record.attempts]
    complete = all(is_plain_name(file) and is_regular(folder / file) for file in files)
    if record.identity != identity or not complete or (replay and not is_regular(replay)):
        return None
    attempts = [
        JudgedAttempt(
            prompt=attempt.prompt,
            variant=attempt.variant,
            seed=attempt.seed,
            path=folder / attempt.file,
            seen=attempt.seen,
            judged=attempt.judged,
            score=attempt.score,
            candidates=attempt.candidates,
        )
        for attempt in record.attempts
    ]
    return attempts, record.budget, replay


def write(folder: Path, name: str, identity: str, outcome: Outcome) -> None:
    """Write the record of an outcome. Its images must be in `folder` already: the record is last,
    so that a record is never without its images.
    """
    record = _Record(
        identity=identity,
        attempts=[
            _Attempt(
                prompt=attempt.prompt,
                variant=attempt.variant,
                seed=attempt.seed,
                file=attempt.path.name,
                seen=attempt.seen,
                judged=attempt.judged,
                score=attempt.score,
                candidates=attempt.candidates,
            )
            for attempt in outcome.attempts
        ],
        budget=dict(outcome.budget),
        replay=outcome.replay is not None,
    )
    atomic.write_atomically(folder / f"{name}.json", plain_json.encode(record.model_dump()))


def write_image(path: Path, image: Any, origin: Mapping[str, Any]) -> None:
    """Write an image with its origin in the metadata."""
    atomic.write_atomically(path, png_bytes(image, origin))


def write_conditionings(
    path: Path,
    conditionings: Sequence[tuple[Conditioning, int]],
    *,
    attack: str,
    concept: str,
    label: str,
    rivals: Sequence[str],
) -> None:
    """Write the conditionings that an attack found, each with the seed of its image."""
    tensors: dict[str, Tensor] = {}
    entries = []
    # Attempts often share a learned tensor, which is stored once: id of the tensor → its key.
    key_of: dict[int, str] = {}
    for conditioning, seed in conditionings:
        parts = {
            "ids": conditioning.ids,
            "hidden": conditioning.hidden,
            "pooled": conditioning.pooled,
            **{f"vectors.{name}": value for name, value in conditioning.vectors.items()},
        }
        names = []
        for part, tensor in parts.items():
            if tensor is None:
                continue
            key = key_of.setdefault(id(tensor), f"{len(tensors)}.{part}")
            tensors[key] = tensor.detach().cpu().contiguous()
            names.append(key)
        entries.append(_Entry(prompt=conditioning.prompt, seed=seed, parts=names))
    index = _Index(found=entries, concept=concept, label=label, rivals=list(rivals), attack=attack)
    # Conditionings that are only prompts have no tensors, but the package needs one in each file.
    tensors = tensors or {"none": torch.zeros(1)}
    atomic.write_atomically(path, save_tensors(tensors, {METADATA_KEY: index.model_dump_json()}))


def read_conditionings(path: Path) -> tuple[list[tuple[Conditioning, int]], _Index]:
    """Read a file of `write_conditionings`: (conditioning, seed) pairs, and the file's index.

    Raises:
        ForgetError: attack.bad-replay: the file is not such a file, or is damaged.
    """
    try:
        data = read_regular(path, MAX_REPLAY_BYTES)
        length = int.from_bytes(data[:8], "little")
        header = plain_json.decode(data[8 : 8 + length])
        index = _Index.model_validate_json(header["__metadata__"][METADATA_KEY])
        tensors = load_tensors(data)
        conditionings = [(_conditioning(entry, tensors), entry.seed) for entry in index.found]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        SafetensorError,
    ) as fault:
        raise ForgetError(
            "attack.bad-replay",
            f"{path} contains no result of an attack: {str(fault)[:LONGEST_REASON]}",
            "give a .safetensors file that `forget attack` wrote, such as "
            "attack/edited/inversion-dog.safetensors",
        ) from fault
    return conditionings, index


def _conditioning(entry: _Entry, tensors: Mapping[str, Tensor]) -> Conditioning:
    fields: dict[str, Any] = {}
    vectors: dict[str, Tensor] = {}
    for key in entry.parts:
        _, _, part = key.partition(".")
        if part.startswith("vectors."):
            vectors[part.removeprefix("vectors.")] = tensors[key]
        elif part in ("ids", "hidden", "pooled"):
            fields[part] = tensors[key]
        else:
            raise ValueError(f"it has an unknown part '{part[:40]}'")
    return Conditioning(prompt=entry.prompt, vectors=vectors, **fields)
