"""Where a parameter's bytes lie: safetensors headers, weight files, shards and variants, read
without loading weights.

The headers are read here, not by the safetensors package, because patching needs the offsets in the
file, which it does
not give.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from forgetcli.errors import ModelError

ITEM_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}  # dtypes that can be edited
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
STANDARD_STEMS = ("model", "diffusion_pytorch_model")  # what transformers and diffusers look for
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_AGAIN = "fetch the model again"


@dataclass(frozen=True)
class TensorSite:
    """One tensor's place on disk.

    Attributes:
        file: relative posix path within the model's folder.
        key: the tensor's name in the file.
        dtype: as safetensors writes it: ``F16``.
        start, end: its bytes in the file, absolute, end exclusive.
        third: of a tensor that holds q, k and v one below the other, which of the three; None for a
            whole tensor.
    """

    file: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    third: int | None = None

    def part(self, third: int | None) -> TensorSite:
        """The bytes of one of three equal parts, one below the other; all of it for None."""
        if third is None:
            return self
        rows, size = self.shape[0] // 3, (self.end - self.start) // 3
        start = self.start + third * size
        return replace(
            self, shape=(rows, *self.shape[1:]), start=start, end=start + size, third=third
        )


@dataclass(frozen=True)
class WeightSet:
    """All weights of a component in one form: a file, or the shards of one index."""

    variant: str  # "" or what stands between the dots: fp16, non_ema
    files: Mapping[str, str] | str  # key → file name of the shard, or the one file's name


def read_header(folder: Path, file: str) -> dict[str, TensorSite]:
    """The tensors of a safetensors file, by key.

    Raises:
        ModelError: model.damaged for what is no intact safetensors file (a git-lfs pointer, a web
            page, a cut-off
            download, offsets that overlap or leave holes); model.pickle for a pickle under a false
            name.
    """
    path = Path(folder, file)
    try:
        size = path.stat().st_size
        with open(path, "rb") as reader:
            head = reader.read(8)
            _refuse_other_content(path, head + reader.read(120))
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or 8 + length > size or not 2 <= length <= LONGEST_HEADER:
                raise _damaged(path, f"it is cut off or no safetensors file ({size} bytes)")
            reader.seek(8)
            text = reader.read(length)
    except OSError as fault:
        raise ModelError(
            "model.unreadable", f"cannot read {path}: {fault.strerror or fault}", _AGAIN
        ) from fault
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        entries.pop("__metadata__", None)
        sites = {key: _site(file, key, entry, 8 + length) for key, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise _damaged(path, f"its header is not valid ({fault})") from fault
    _check_cover(path, sites.values(), 8 + length, size)
    return sites


def read_metadata(path: Path) -> dict[str, str]:
    """The free text in the header of a safetensors file that `read_header` has read."""
    with open(path, "rb") as reader:
        length = struct.unpack("<Q", reader.read(8))[0]
        found = json.loads(reader.read(length)).get("__metadata__") or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _damaged(path, "its metadata are not text")
    return found


def _refuse_other_content(path: Path, head: bytes) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            "model.damaged",
            f"{path} is a git-lfs pointer, not the weights",
            "run 'git lfs pull' in the model's folder",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            "model.damaged",
            f"{path} is a web page, not the weights",
            "a download that needed a login? " + _AGAIN,
        )
    if (
        head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))
        and head[8:9] != b"{"
    ):
        raise ModelError(
            "model.pickle",
            f"{path} is a pickle under the name of a safetensors file",
            "forget opens safetensors only",
        )


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError("model.damaged", f"{path} is damaged: {what}", _AGAIN)


def _unique(pairs: list[tuple[str, object]]) -> dict:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _site(file: str, key: str, entry: dict, data: int) -> TensorSite:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BITS:
        raise ValueError(f"'{key}' has the unknown dtype {dtype!r}")
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError(f"'{key}' has a size or offset that is no natural number")
    if (end - begin) * 8 != math.prod(shape) * ITEM_BITS[dtype]:
        raise ValueError(f"'{key}' has {end - begin} bytes, which is not {dtype} of shape {shape}")
    return TensorSite(file, key, dtype, tuple(shape), data + begin, data + end)


def _check_cover(path: Path, sites: Iterable[TensorSite], data: int, size: int) -> None:
    """The format wants the tensors to fill the file exactly: an overlap would let one edit change
    two tensors.
    """
    at = data
    for site in sorted(sites, key=lambda s: (s.start, s.end)):
        if site.start != at:
            raise _damaged(
                path,
                f"'{site.key}' {'overlaps another tensor' if site.start < at else 'follows a hole'}",
            )
        at = site.end
    if at != size:
        guess = ": a cut-off download?" if size < at else ""
        raise _damaged(path, f"it has {size} bytes, its header wants {at}{guess}")


def weight_sets(folder: Path, component: str) -> list[WeightSet]:
    """The forms that a component's weights are there in, the one that loaders read by default
    first.

    Raises:
        ModelError: no weights, only pickles, a shard that is missing or has a name that leads
            elsewhere.
    """
    place = Path(folder, component)
    names = sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []
    ranked: list[tuple[tuple, WeightSet]] = []
    sharded: set[str] = set()
    for name in (n for n in names if ".safetensors.index." in n and n.endswith(".json")):
        files = _read_index(place, name)
        sharded |= set(files.values())
        stem, _, rest = name.partition(".safetensors.index.")
        variant = stem.partition(".")[2] or rest.removesuffix("json").rstrip(".")
        ranked.append((_rank(stem, variant, 1), WeightSet(variant, files)))
    for name in (n for n in names if n.endswith(".safetensors") and n not in sharded):
        stem = name.removesuffix(".safetensors")
        if _SHARD.search(stem):
            raise ModelError(
                "model.damaged",
                f"{place / name} is one of several shards, but no index.json names it",
                _AGAIN,
            )
        variant = stem.partition(".")[2]
        ranked.append((_rank(stem, variant, 0), WeightSet(variant, name)))
    if ranked:
        return [weights for _, weights in sorted(ranked, key=lambda r: r[0])]
    pickles = [n for n in names if n.endswith(PICKLES)]
    if pickles:
        raise ModelError(
            "model.pickle",
            f"{place} has its weights only as a pickle ({pickles[0]}), which can run code when opened",
            'if you trust it, convert it: python -c "from diffusers import DiffusionPipeline as D; '
            f"D.from_pretrained('{folder}', use_safetensors=False).save_pretrained('converted')\"",
        )
    raise ModelError(
        "model.not-a-model",
        f"{place} has no weights (.safetensors)",
        "is the model complete? " + _AGAIN,
    )


def _rank(stem: str, variant: str, sharded: int) -> tuple:
    return (variant != "", stem.partition(".")[0] not in STANDARD_STEMS, sharded, stem)


def _read_index(place: Path, name: str) -> dict[str, str]:
    try:
        files = json.loads((place / name).read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
            raise ValueError("weight_map is not a table of names")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(
            "model.damaged", f"{place / name} is no valid index of shards ({fault})", _AGAIN
        ) from fault
    for file in sorted(set(files.values())):
        # transformers joins these names to the folder unchecked; `../x` would patch a file outside
        # of it.
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise ModelError(
                "model.damaged",
                f"{place / name} names the shard {file!r}, which is not a plain file name",
                "do not use this model: the name leads out of its folder",
            )
        if not (place / file).is_file():
            raise ModelError("model.damaged", f"{place / file} is missing, {name} names it", _AGAIN)
    return files


def locate(folder: Path, component: str, name: str) -> TensorSite:
    """Where loaders find the parameter `name` (as in memory) of a component.

    The key in the file is `name` itself, or the only one that ends in ``.name`` (transformers 5 has
    no ``text_model.``
    in memory, files have it), or `name` without its first part (the other way round).

    Raises:
        ModelError: model.no-tensor, listing names that are near; and those of `read_header`,
            `weight_sets`.
    """
    return locate_all(folder, component, name)[0]


def locate_all(folder: Path, component: str, name: str) -> list[TensorSite]:
    """`locate`, and the same tensor in every other form of the weights (``.fp16.``, ``.non_ema.``)
    that is there.
    """
    found = []
    for weights in weight_sets(folder, component):
        place = f"{component}/{weights.files}" if isinstance(weights.files, str) else ""
        keys = read_header(folder, place) if place else weights.files
        key = _match(list(keys), name)
        if key is None:
            if not found:
                near = difflib.get_close_matches(name, keys, 3, 0.5)
                raise ModelError(
                    "model.no-tensor",
                    f"{component} of {folder} has no parameter '{name}'",
                    f"did you mean {' or '.join(near)}?"
                    if near
                    else "is it a model of another family?",
                )
            continue
        file = place or f"{component}/{weights.files[key]}"
        site = (keys if place else read_header(folder, file)).get(key)
        if site is None:
            raise _damaged(Path(folder, file), f"it lacks '{key}', which its index.json promises")
        if not found or site.shape == found[0].shape:
            found.append(site)
    return found


def _match(keys: list[str], name: str) -> str | None:
    if name in keys:
        return name
    longer = [key for key in keys if key.endswith("." + name)]
    if len(longer) > 1:
        raise ModelError(
            "model.no-tensor",
            f"'{name}' could be any of {', '.join(sorted(longer)[:3])}",
            "give more of its name",
        )
    shorter = name.partition(".")[2]
    return longer[0] if longer else shorter if shorter in keys else None


def read_bytes(folder: Path, site: TensorSite) -> bytes:
    """The tensor's bytes as they are on disk."""
    with open(Path(folder, site.file), "rb") as reader:
        reader.seek(site.start)
        data = reader.read(site.end - site.start)
    if len(data) != site.end - site.start:
        raise _damaged(Path(folder, site.file), f"it ends within '{site.key}'")
    return data


def editable_dtype(site: TensorSite) -> str:
    """torch's name of the dtype that a site is stored in.

    Raises:
        ModelError: model.dtype: one that holds no plain floating-point numbers, as quantised models
            do.
    """
    if site.dtype not in TORCH_NAMES:
        raise ModelError(
            "model.dtype",
            f"'{site.key}' in {site.file} is stored as {site.dtype}, which cannot be edited",
            "edit the unquantised model: float32, float16 or bfloat16",
        )
    return TORCH_NAMES[site.dtype]


def refuse_quantised(component: str, sites: Iterable[TensorSite]) -> None:
    """Before a component is loaded: libraries turn float8 into float32 without a word, and its edit
    could not be written.

    Whole numbers of 32 and 64 bits are no weights: old text encoders store their position numbers.

    Raises:
        ModelError: model.dtype.
    """
    for site in sites:
        if site.dtype not in (*TORCH_NAMES, "I32", "I64", "BOOL"):
            raise ModelError(
                "model.dtype",
                f"{component} is quantised: '{site.key}' in {site.file} is stored as {site.dtype}",
                "edit the unquantised model: float32, float16 or bfloat16",
            )
