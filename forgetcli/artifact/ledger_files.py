"""The two files of a ledger: their shape, reading with all checks, and writing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forgetcli.artifact.manifest import LARGEST_FILE, MANIFEST, Manifest
from forgetcli.artifact.manifest_schema import RelativePath, Sha256
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import safetensors_writer
from forgetcli.storage.files import files_digest, inside, read_regular, sha256_file
from forgetcli.storage.json import decode, encode
from forgetcli.storage.safetensors import TensorSite, read_bytes, read_header
from forgetcli.storage.safetensors_writer import Content

if TYPE_CHECKING:
    from torch import Tensor

LEDGER = "forget.ledger.json"
TENSORS = "forget.ledger.safetensors"
WIDTHS = ("F32", "F64")  # the dtypes of Δ
FORMATS = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Origin(_Part):
    """The model that the first edit was made to; `id`, `revision`, `files`, `digest` as
    `checkpoint.Base` has them.

    `card` is the SHA-256 of its README.md, which is none of its `files`; None if it had none.
    """

    id: str
    revision: str | None = None
    files: dict[RelativePath, Sha256]
    card: Sha256 | None = None

    @property
    def digest(self) -> str:
        return files_digest(self.files)


class Place(_Part):
    """A tensor on disk that an edit has changed: the parameter's names in memory, and the file, key
    and part that hold it.
    """

    component: str
    parameter: str
    file: RelativePath
    key: str
    third: int | None = Field(default=None, ge=0, le=2)  # `TensorSite.third`

    @property
    def original(self) -> str:
        """The name of its bytes in the base among the ledger's tensors."""
        return f"base:{self.file}:{self.key}" + ("" if self.third is None else f":{self.third}")


class Material(_Part):
    name: str
    sha256: Sha256


class Entry(_Part):
    """One edit.

    Attributes:
        number: from 1; it stays the edit's own when others are taken out.
        name, recipe, recipe_sha256: the recipe; its bytes as text.
        method, parameters: how it was made.
        concepts: (concept, target) each.
        applied_to: `Base.digest` of the model that it was made to: the chain back to the origin.
        delta_rel: ‖Δ‖_F / ‖W‖_F over all tensors that it changed, W as they were before it.
        tokens: COMPONENT:NAME → concept tokens whose keys later edits hold there.
        materials: the second moments that went in.
    """

    number: int = Field(ge=1)
    name: str
    method: str
    parameters: dict[str, Any]
    concepts: list[Annotated[tuple[str, str], Field(strict=False)]]
    recipe: str
    recipe_sha256: Sha256
    applied_to: Sha256
    delta_rel: float = Field(allow_inf_nan=False)
    tokens: dict[str, int]
    materials: list[Material]


class Book(_Part):
    """The whole of ``forget.ledger.json``."""

    schema_version: Literal[1] = 1
    base: Origin
    edits: Annotated[tuple[Entry, ...], Field(strict=False)]
    places: Annotated[tuple[Place, ...], Field(strict=False)]


def delta_name(number: int, component: str, parameter: str) -> str:
    """The name of an edit's Δ among the tensors."""
    return f"edit.{number}.delta:{component}:{parameter}"


def keys_name(number: int, component: str, parameter: str) -> str:
    """The name of an edit's keys among the tensors."""
    return f"edit.{number}.keys:{component}:{parameter}"


def edit_number(name: str) -> int | None:
    """The number of the edit that a tensor belongs to; None for the base's."""
    return int(name.split(".")[1]) if name.startswith("edit.") else None


def damaged(folder: Path, what: str) -> ModelError:
    return ModelError(
        "ledger.damaged",
        f"the ledger of {folder} is damaged: {what}",
        f"apply the recipes again; or remove {MANIFEST} and forget.ledger.* there to edit it as a "
        "new base",
    )


def read(folder: Path, made: Manifest | None) -> tuple[Book, dict[str, TensorSite]] | None:
    """The ledger's two files, checked against the manifest and one another; None where there is
    none.

    Args:
        made: the folder's manifest; None where there is none.
    Raises:
        ModelError: ledger.damaged.
    """
    listed: Mapping[str, str] = made.subjects if made else {}
    if LEDGER not in listed and not (folder / LEDGER).exists():
        return None
    for name in (LEDGER, TENSORS):
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
        inside(folder, folder / name)
        if name not in listed:
            raise damaged(folder, f"{MANIFEST} does not list {name}")
        if sha256_file(folder / name) != listed[name]:
            raise damaged(folder, f"{name} was changed: its digest is not the one in {MANIFEST}")
    try:
        data = read_regular(folder / LEDGER, LARGEST_FILE)
        decode(data, nan=False)  # limits, and keys that occur twice
        book = Book.model_validate_json(data)
        tensors = read_header(folder, TENSORS)
    except ValidationError as fault:
        raise damaged(folder, f"{LEDGER}: {fault.errors()[0]['msg']}") from fault
    except ForgetError as fault:
        raise damaged(folder, fault.message) from fault
    except (OSError, ValueError) as fault:
        raise damaged(folder, f"{LEDGER}: {fault}") from fault
    what = _mismatch(book, tensors)
    if what:
        raise damaged(folder, f"{LEDGER} and {TENSORS} do not belong together: {what}")
    return book, tensors


def _mismatch(book: Book, tensors: Mapping[str, TensorSite]) -> str | None:
    """What one of the files has and the other lacks, or tensors whose shapes do not fit; None if
    they belong together.

    Shapes are compared before anything is computed: tensors of a few bytes can broadcast to many
    gigabytes.
    """
    numbers = [entry.number for entry in book.edits]
    if not numbers or len(set(numbers)) != len(numbers):
        return "there is no edit, or two have the same number"
    originals = [place.original for place in book.places]
    lacking = [name for name in originals if name not in tensors]
    if lacking or len(set(originals)) != len(originals):
        return f"'{lacking[0]}' is missing" if lacking else "a tensor is named twice"
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for place in book.places:
        shape = tensors[place.original].shape
        shapes.setdefault(f"{place.component}:{place.parameter}", set()).add(shape)
    expected = {"card", *originals}
    edited = set()
    for number in numbers:
        for parameter, of_places in shapes.items():
            delta, keys = f"edit.{number}.delta:{parameter}", f"edit.{number}.keys:{parameter}"
            expected |= {delta, keys, f"{keys}:counts"}
            if delta in tensors:
                edited.add((number, parameter))
                if of_places != {tensors[delta].shape} or tensors[delta].dtype not in WIDTHS:
                    return f"'{delta}' has not the shape or dtype of a change"
            if keys in tensors and not _are_keys(tensors, keys, of_places):
                return f"'{keys}' has not the shape or dtype of keys"
    if {number for number, _ in edited} != set(numbers):
        return "an edit changes nothing"
    if {parameter for _, parameter in edited} != set(shapes):
        return "a tensor is listed that no edit changes"
    surplus = sorted(tensors.keys() - expected)
    return f"'{surplus[0]}' belongs to nothing" if surplus else None


def _are_keys(tensors: Mapping[str, TensorSite], name: str, weights: set[tuple[int, ...]]) -> bool:
    """Whether a layer's keys, d × n and n counts, or half of their second moment, d (d + 1) / 2
    numbers and their count, fit a weight whose layer has d inputs.
    """
    keys = tensors[name]
    counts = tensors.get(f"{name}:counts")
    if counts is None or counts.dtype != "F64" or len(counts.shape) != 1:
        return False
    inputs = {math.prod(shape[1:]) for shape in weights}
    if len(keys.shape) == 2:
        return keys.dtype == "F32" and inputs == {keys.shape[0]} and counts.shape == keys.shape[1:]
    halves = {(d * (d + 1) // 2,) for d in inputs}
    return keys.dtype == "F64" and halves == {keys.shape} and counts.shape == (1,)


def write(
    staging: Path, book: Book, tensors: Mapping[str, TensorSite | Tensor], source: Path
) -> None:
    """Write both files into `staging`.

    Tensors that are on disk are copied from `source` one by one: an edit of a whole denoiser is too
    large to be in memory twice.
    """
    (staging / LEDGER).write_bytes(encode(book.model_dump(mode="json")))
    contents = {name: _content(tensor, source) for name, tensor in tensors.items()}
    with open(staging / TENSORS, "xb") as writer:
        safetensors_writer.write(writer, contents, {"format": "pt"}, compact=False)


def _content(tensor: TensorSite | Tensor, source: Path) -> Content:
    if isinstance(tensor, TensorSite):
        return safetensors_writer.of_sites(source, [tensor], tensor.shape)
    return Content(
        FORMATS[str(tensor.dtype)], tuple(tensor.shape), lambda: (content(source, tensor),)
    )


def content(folder: Path, tensor: TensorSite | Tensor) -> bytes:
    """A tensor's bytes, from disk or memory."""
    import torch

    if isinstance(tensor, TensorSite):
        return read_bytes(folder, tensor)
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
