"""Outcomes on disk, one file each, so that an interrupted run goes on where it stopped; and what an
attack found, in safetensors, so that other models can be given it.
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
from forgetcli.robustness.results import Outcome, Tried
from forgetcli.storage import atomic
from forgetcli.storage import json as plain_json
from forgetcli.storage.files import is_plain_name, is_regular, read_regular

MAX_RECORD_BYTES = 16 << 20
MAX_FOUND_BYTES = 64 << 20  # a context of the largest family has 8 MB
LONGEST_REASON = 200  # characters of what a library says of a file
FOUND = "forget.found"  # key of a file's metadata that lists what it holds


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
    """An outcome as its file holds it. `counted` is not in it: it follows from another outcome."""

    identity: str
    attempts: list[_Attempt]
    budget: dict[str, float]
    replay: bool


class _Found(_Strict):
    prompt: str
    seed: int
    parts: list[str]  # names of its tensors


class _FoundList(_Strict):
    found: list[_Found] = Field(min_length=1)
    concept: str
    label: str
    rivals: list[str]
    attack: str


def digest(identity: Mapping[str, Any]) -> str:
    """Of everything that an outcome depends on."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def stem(attack: str, label: str) -> str:
    """The name of an outcome's files, without suffix: plain, and different for different labels."""
    plain = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    if plain != label:
        plain += "-" + hashlib.sha256(label.encode()).hexdigest()[:6]
    return f"{attack}-{plain}"


def read(folder: Path, name: str, identity: str) -> tuple[list[Tried], dict, Path | None] | None:
    """(attempts, budget, file with what was found) of an earlier run with this identity.

    None if there is no such outcome, or anything about it is damaged: then it is made again.
    """
    try:
        data = read_regular(folder / f"{name}.json", MAX_RECORD_BYTES)
        record = _Record.model_validate(plain_json.decode(data))
    except (OSError, ValueError, ForgetError):
        return None
    replay = folder / f"{name}.safetensors" if record.replay else None
    files = [attempt.file for attempt in record.attempts]
    whole = all(is_plain_name(file) and is_regular(folder / file) for file in files)
    if record.identity != identity or not whole or (replay and not is_regular(replay)):
        return None
    tried = [
        Tried(
            prompt=a.prompt,
            variant=a.variant,
            seed=a.seed,
            path=folder / a.file,
            seen=a.seen,
            judged=a.judged,
            score=a.score,
            candidates=a.candidates,
        )
        for a in record.attempts
    ]
    return tried, record.budget, replay


def write(folder: Path, name: str, identity: str, outcome: Outcome) -> None:
    """The record of an outcome whose images are already in `folder`. Written last."""
    record = _Record(
        identity=identity,
        attempts=[
            _Attempt(
                prompt=t.prompt,
                variant=t.variant,
                seed=t.seed,
                file=t.path.name,
                seen=t.seen,
                judged=t.judged,
                score=t.score,
                candidates=t.candidates,
            )
            for t in outcome.tried
        ],
        budget=dict(outcome.budget),
        replay=outcome.replay is not None,
    )
    atomic.write_atomically(folder / f"{name}.json", plain_json.encode(record.model_dump()))


def write_image(path: Path, image: Any, origin: Mapping[str, Any]) -> None:
    """An image with its origin in the metadata."""
    atomic.write_atomically(path, png_bytes(image, origin))


def write_found(
    path: Path,
    found: Sequence[tuple[Conditioning, int]],
    *,
    attack: str,
    concept: str,
    label: str,
    rivals: Sequence[str],
) -> None:
    """What an attack found, each with the seed of its image."""
    tensors: dict[str, Tensor] = {}
    listed = []
    known: dict[int, str] = {}  # attempts mostly share what was learned
    for conditioning, seed in found:
        parts = {"ids": conditioning.ids, "hidden": conditioning.hidden}
        parts |= {"pooled": conditioning.pooled}
        parts |= {f"vectors.{name}": value for name, value in conditioning.vectors.items()}
        names = []
        for part, tensor in parts.items():
            if tensor is None:
                continue
            key = known.setdefault(id(tensor), f"{len(tensors)}.{part}")
            tensors[key] = tensor.detach().cpu().contiguous()
            names.append(key)
        listed.append(_Found(prompt=conditioning.prompt, seed=seed, parts=names))
    index = _FoundList(
        found=listed, concept=concept, label=label, rivals=list(rivals), attack=attack
    )
    tensors = tensors or {"none": torch.zeros(1)}  # the format knows no file without tensors
    atomic.write_atomically(path, save_tensors(tensors, {FOUND: index.model_dump_json()}))


def read_found(path: Path) -> tuple[list[tuple[Conditioning, int]], _FoundList]:
    """What `write_found` wrote, and about which concept.

    Raises:
        ForgetError: attack.bad-replay: the file is none of that, or is damaged.
    """
    try:
        data = read_regular(path, MAX_FOUND_BYTES)
        length = int.from_bytes(data[:8], "little")
        header = plain_json.decode(data[8 : 8 + length])
        index = _FoundList.model_validate_json(header["__metadata__"][FOUND])
        tensors = load_tensors(data)
        found = [(_conditioning(entry, tensors), entry.seed) for entry in index.found]
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
            f"{path} holds nothing that an attack found: {str(fault)[:LONGEST_REASON]}",
            "name a .safetensors file that `forget attack` wrote, such as "
            "attack/edited/inversion-dog.safetensors",
        ) from fault
    return found, index


def _conditioning(entry: _Found, tensors: Mapping[str, Tensor]) -> Conditioning:
    given: dict[str, Any] = {}
    vectors: dict[str, Tensor] = {}
    for key in entry.parts:
        _, _, part = key.partition(".")
        if part.startswith("vectors."):
            vectors[part.removeprefix("vectors.")] = tensors[key]
        elif part in ("ids", "hidden", "pooled"):
            given[part] = tensors[key]
        else:
            raise ValueError(f"it has an unknown part '{part[:40]}'")
    return Conditioning(prompt=entry.prompt, vectors=vectors, **given)
