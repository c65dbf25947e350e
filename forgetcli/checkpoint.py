"""The base model on disk: found, read, and copied with exactly the edited tensors' bytes replaced.

Weights are never saved anew. Current transformers writes CLIP text encoders without the ``text_model.`` prefix, which
older versions and other programs cannot read (they silently start from random weights); and a patched file can be
compared with its base byte by byte.
"""
from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import hub
from forgetcli.copying import Copying, put, refuse_lack_of_room
from forgetcli.errors import EditError, ForgetError, ModelError
from forgetcli.manifest import CARD
from forgetcli.single_file import CONFIG, SingleFile, settings_files
from forgetcli.store import can_clone, sha256_file, sync_file, walk_files
from forgetcli.tensorfile import (
    PICKLES,
    TensorSite,
    editable_dtype,
    locate,
    locate_all,
    read_header,
    read_tensor,
    weight_sets,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Base", "Stored", "TensorSite", "locate", "patch", "read_tensor", "resolve"]

INDEX = "model_index.json"
OTHER_WEIGHTS = (*PICKLES, ".msgpack", ".h5", ".onnx", ".onnx_data", ".gguf", ".ot", ".tflite", ".xml")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
DISPENSABLE = ("safety_checker", "feature_extractor", "image_encoder")  # pipelines run without; many copies lack them


@dataclass(frozen=True)
class Base:
    """A model that can be edited: a diffusers folder, or a single file.

    Attributes:
        id: as the user named it: ``demo``, a path, ``org/name``.
        revision: the commit, for a model from the hub.
        folder: where its files are.
        file: the single file's name in `folder`; None for a diffusers folder.
        config: the folder of a single file's settings, as the user named it, if they did.
    """

    id: str
    revision: str | None
    folder: Path
    file: str | None = None
    config: Path | str | None = None

    @cached_property
    def single(self) -> SingleFile | None:
        return SingleFile(self.folder, self.file) if self.file else None

    @property
    def place(self) -> Path:
        """What it is on disk: the folder or the file."""
        return self.folder / self.file if self.file else self.folder

    @cached_property
    def settings(self) -> Path:
        """The diffusers folder with configs, tokenizer and scheduler: the model's own, or the one that goes with a single file.

        Raises:
            ModelError: model.no-config: there is none for the single file, and none can be fetched.
        """
        return self.single.settings(self.config) if self.single else self.folder

    @cached_property
    def beside(self) -> dict[str, Path]:
        """Files that go with a single file into an edited copy, so that it can be loaded: path there → path here."""
        if self.single is None:
            return {}
        names = settings_files(self.settings, frozenset(self.single.keys.components))
        return {f"{CONFIG}/{name}": self.settings / name for name in names}

    def locate(self, component: str, parameter: str) -> list[TensorSite]:
        """Where a parameter lies, the place that loaders read by default first; then its other forms and running averages.

        Raises:
            ModelError: model.no-tensor; those of `read_header`, `weight_sets`.
        """
        return self.single.sites(component, parameter) if self.single else locate_all(self.folder, component, parameter)

    def parts(self, *prefixes: str) -> dict[str, str]:
        """Path → SHA-256 of all that components with these prefixes are made of; a single file counts whole."""
        beside = {path.removeprefix(f"{CONFIG}/"): source for path, source in self.beside.items()}
        return ({path: digest for path, digest in self.files.items() if self.single or path.startswith(prefixes)}
                | {path: sha256_file(source) for path, source in beside.items() if path.startswith(prefixes)})

    @cached_property
    def drawn_by(self) -> str:
        """One name for all that decides what its pictures are: `digest`, for a single file with its settings."""
        return files_digest(self.files | {path: sha256_file(source) for path, source in self.beside.items()})

    @property
    def reference(self) -> str:
        """What `resolve` takes for this very model: its id, with the commit where it has one."""
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @cached_property
    def files(self) -> dict[str, str]:
        """Relative posix path → SHA-256 of what makes up the model. Hashed when first asked for; gigabytes take
        seconds.

        Not part of it, and so not in an edited copy: hidden files; pictures; the model card and all else that forget
        itself adds to a folder; weights in other formats and single-file copies at the top level, which would stay
        *unedited* beside the edited ones and be loaded by mistake.
        """
        own = [self.file] if self.file else [path for path in walk_files(self.folder) if _is_part(path)]
        return {path: sha256_file(self.folder / path) for path in own}

    @property
    def digest(self) -> str:
        """SHA-256 over the lines ``path sha256\\n`` of `files`, sorted by path: one name for the whole."""
        return files_digest(self.files)


def files_digest(files: Mapping[str, str]) -> str:
    """`Base.digest` of any table of path → SHA-256."""
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _is_part(path: str) -> bool:
    *folders, name = path.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in (*folders, name)):
        return False
    if name.lower().endswith(IMAGES + OTHER_WEIGHTS):
        return False
    own = name in ("recipe.toml", "README.md") or (name.startswith("forget.") and name.endswith(".json"))
    return bool(folders) or not (own or name.endswith(".safetensors"))


@dataclass(frozen=True)
class Stored:
    """One edited tensor as it lies on disk.

    Attributes:
        sha256: of its bytes, read back.
        error: ‖stored − wanted‖_F / ‖wanted − base‖_F, float64: the share of the edit that the file's dtype swallowed.
        also: the same tensor in other forms of the weights (``.fp16.``), edited by the same change.
        before: SHA-256 of its bytes in the base.
    """

    site: TensorSite
    sha256: str
    error: float
    also: tuple[Stored, ...] = ()
    before: str = ""


@dataclass(frozen=True)
class Change:
    """What a new weight changes.

    Attributes:
        key: (component, parameter).
        sites: every place that holds the parameter, the one that loaders read first.
        wanted: the new weight, float64. delta: wanted − the first place's values.
    """

    key: tuple[str, str]
    sites: tuple[TensorSite, ...]
    wanted: Tensor
    delta: Tensor


def resolve(model: str | Path, *, config: Path | str | None = None, download: bool = True) -> Base:
    """The model that a name or a path means.

    ``demo`` is the model in this package (``./demo`` a folder); otherwise a folder or a single file that exists wins;
    otherwise ``org/name`` or ``org/name@revision`` on the hub, from the local cache or fetched.

    Args:
        config: for a single file, the diffusers folder (or hub id) that has its configs and tokenizer; by default it is
            looked for when it is needed.
        download: whether the network may be used.
    Raises:
        ModelError: model.not-found, model.not-a-model, model.pickle, model.damaged, model.gated.
    """
    if model == "demo":
        folder = Path(str(resources.files("forgetcli"))) / "demo" / "model"
        if not (folder / INDEX).is_file():
            raise ModelError("model.not-found", "the demo model is missing from this installation",
                             "install forgetcli again")
        return Base("demo", None, folder)
    name = str(model) if str(model) != "demo" else "./demo"           # Path("demo") is a folder, as Path("./demo") is
    path = Path(model).expanduser()
    if path.is_dir():
        if (file := edited_file(path)) is not None:
            return _single(name, file, config)
        _check(path)
        return Base(name, None, path)
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise _no_folder(path)
        return _single(name, path, config)
    match = hub.NAME.fullmatch(name) if isinstance(model, str) else None
    if match is None:
        others = _similar(path, name)
        raise ModelError("model.not-found", f"there is no model '{name}'",
                         f"did you mean {' or '.join(others)}?" if others
                         else "give a diffusers folder, org/name on the hub, or demo")
    folder = hub.snapshot(match["id"], match["revision"], _is_complete, download=download)
    _check(folder)
    commit = folder.name if folder.parent.name == "snapshots" else match["revision"]
    return Base(match["id"], commit, folder)


def _similar(path: Path, name: str) -> list[str]:
    parent = path.parent
    here = [p for p in sorted(parent.iterdir()) if (p / INDEX).is_file()] if parent.is_dir() else []
    by_name = {p.name.lower(): str(p) for p in here}
    found = [by_name[m] for m in difflib.get_close_matches(path.name.lower(), by_name, 2, 0.6)]
    return found + ["demo"] * bool(difflib.get_close_matches(name.lower(), ["demo"], 1, 0.7)) + hub.near(name)


def _single(name: str, path: Path, config: Path | str | None) -> Base:
    base = Base(name, None, path.parent, path.name, config)
    _ = base.single.keys                                              # its header is read, and its architecture is known
    return base


def edited_file(folder: Path) -> Path | None:
    """The single file in a folder that an edit of one made: settings beside it, and no model_index.json of its own."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("forget.")]
    return files[0] if len(files) == 1 and (folder / CONFIG / INDEX).is_file() and not (folder / INDEX).is_file() else None


def _no_folder(path: Path) -> ModelError:
    if path.suffix.lower() in PICKLES:
        return ModelError("model.pickle", f"{path} is a pickle, which can run code when it is opened",
                          "if you trust it, convert it: python -c \"from safetensors.torch import save_file; import torch; "
                          f"m = torch.load('{path}', weights_only=True); m = m.get('state_dict', m); save_file({{k: v.contiguous() "
                          f"for k, v in m.items() if torch.is_tensor(v)}}, '{path.stem}.safetensors')\"")
    return ModelError("model.not-a-model", f"{path} is a file, not a model",
                      "give the folder that holds model_index.json, or a .safetensors file")


def _is_complete(folder: Path) -> bool:
    try:
        _check(folder)
    except ForgetError:
        return False
    return True


def _check(folder: Path) -> None:
    """That a folder is a diffusers model with intact safetensors weights; headers are read, weights are not."""
    index = folder / INDEX
    if not index.is_file():
        inside = sorted(p.parent.name for p in folder.glob(f"*/{INDEX}"))
        above = (folder.parent / INDEX).is_file()
        hint = (f"did you mean {folder / inside[0]}?" if inside else f"did you mean {folder.parent}?" if above
                else "give the folder that holds model_index.json")
        raise ModelError("model.not-a-model", f"{folder} is no diffusers model: it has no {INDEX}", hint)
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        entries["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError("model.not-a-model", f"{index} is not valid: {fault}", "fetch the model again") from fault
    for name, entry in entries.items():
        wanted = not name.startswith("_") and isinstance(entry, list) and None not in entry
        place = folder / name
        if wanted and not place.is_dir() and name not in DISPENSABLE:
            raise ModelError("model.not-a-model", f"{folder} is incomplete: {INDEX} names {name}/, which is missing",
                             "is the model complete? fetch it again")
        if wanted and (place / "config.json").is_file():  # a network; tokenizers and schedulers have other files
            weights = weight_sets(folder, name)[0].files
            for file in [weights] if isinstance(weights, str) else sorted(set(weights.values())):
                read_header(folder, f"{name}/{file}")


def check_room(base: Base, staging: Path, output: Path, how: Copying) -> None:
    """Before the work: whether the output's disk has room for the copy that `patch` will make, as far as that is known.

    Files that will be shared (reflinks, hard links) are not counted.

    Raises:
        OutputError: output.disk-full, with both figures.
    """
    sources = [base.folder / path for path in base.files] + list(base.beside.values())
    shared = how is Copying.LINK or (how is Copying.REFLINK and sources and can_clone(sources[0], staging))
    refuse_lack_of_room([] if shared else sources, staging, output)


def patch(base: Base, staging: Path, weights: Mapping[tuple[str, str], Tensor], how: Copying = Copying.REFLINK,
          values: Callable[[TensorSite], Tensor] | None = None) -> dict[tuple[str, str], Stored]:
    """Copy the base into `staging` and overwrite exactly these tensors' bytes.

    Args:
        staging: an existing folder; see `store.publishing`.
        how: what an untouched file becomes; an edited one is never a link.
        weights: (component, parameter name in memory) → the new weight, float32 or float64, the parameter's shape. It
            is rounded to nearest in the dtype that the file has.
        values: what a place shall hold before rounding, if another sum than its own values and this edit's change.
    Returns:
        what now lies on disk, read back after fsync.
    Raises:
        EditError: edit.not-finite, edit.overflow (too large for the file's dtype), edit.shape, edit.twice. Nothing is
            copied then.
        ModelError: a parameter that the base does not have, or a base that cannot be read.
        OSError: the disk is full, or refuses; `store.publishing` puts it in the user's words.
    """
    plans = _plan(base, weights, values)
    touched = {site.file for parts in plans.values() for site, _, _ in parts}
    copy_with(base, staging, ((site, data) for parts in plans.values() for site, _, data in parts), touched, how)
    stored = {}
    for key, parts in plans.items():
        first, *others = (_read_back(base, staging, site, wanted) for site, wanted, _ in parts)
        stored[key] = replace(first, also=tuple(others))
    return stored


def copy_with(base: Base, staging: Path, changes: Iterable[tuple[TensorSite, bytes]], touched: Collection[str],
              how: Copying = Copying.REFLINK) -> None:
    """Copy the base into `staging`, with these tensors' bytes in place of its own; what was overwritten is synced.

    Args:
        touched: the files that the changes lie in: they are never links.
    Raises:
        OSError: the disk is full, or refuses.
    """
    for path, source in {**{path: base.folder / path for path in base.files}, **base.beside}.items():
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        own = path in touched or path == CARD                         # the card may be written anew: through a link, the base's too
        put(source, target, Copying.REFLINK if own and how is Copying.LINK else how)
    for file, edits in groupby(changes, key=lambda change: change[0].file):
        with open(staging / file, "r+b") as writer:
            for site, data in edits:                                  # one at a time: they may be read as they are asked for
                writer.seek(site.start)
                writer.write(data)
        sync_file(staging / file)


def changes(base: Base, weights: Mapping[tuple[str, str], Tensor]) -> Iterator[Change]:
    """What new weights change in the base, one after the other, checked.

    Raises:
        EditError, ModelError: as `patch`.
    """
    taken: set[TensorSite] = set()
    for (component, name), weight in weights.items():
        sites = base.locate(component, name)
        wanted = weight.detach().double().cpu()
        if tuple(wanted.shape) != sites[0].shape:
            raise EditError("edit.shape", f"{component} {name} has shape {sites[0].shape}, not {tuple(wanted.shape)}")
        if not wanted.isfinite().all():
            raise EditError("edit.not-finite", f"the edit of {component} {name} gave values that are not finite",
                            "raise lambda, or lower the refinement's step size")
        if not taken.isdisjoint(sites):
            raise EditError("edit.twice", f"{component} {name} is edited under two names")
        taken.update(sites)
        yield Change((component, name), tuple(sites), wanted, wanted - read_tensor(base.folder, sites[0]).double())


def _plan(base: Base, weights: Mapping[tuple[str, str], Tensor], values: Callable[[TensorSite], Tensor] | None,
          ) -> dict[tuple[str, str], list[tuple[TensorSite, Tensor, bytes]]]:
    """Per parameter, for each place that holds it: the site, the wanted values (float64) and their bytes."""
    plans = {}
    for change in changes(base, weights):
        parts = []
        for site in change.sites:
            if values:
                here = values(site)
            else:  # Another form of the weights (fp16, non-EMA) has other values: it gets the same change, not result.
                here = (change.wanted if site is change.sites[0]
                        else read_tensor(base.folder, site).double() + change.delta)
            parts.append((site, here, encode(here, site)))
        plans[change.key] = parts
    return plans


def encode(wanted: Tensor, site: TensorSite) -> bytes:
    """float64 values → the bytes of the site's dtype, rounded to nearest, ties to even."""
    import torch

    rounded = round_to(wanted, getattr(torch, editable_dtype(site)))
    if not rounded.isfinite().all():
        largest = float(wanted.abs().max())
        raise EditError("edit.overflow",
                        f"the edit of '{site.key}' gave values up to {largest:.3g}, too large for {site.dtype}",
                        "raise lambda, or edit the model in float32")
    return rounded.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_to(values: Tensor, dtype) -> Tensor:
    """float64 → `dtype`, rounded once.

    torch goes to 16 bits by way of float32 and rounds twice: 1 + 2⁻¹¹ + 2⁻⁴⁰ becomes 1 in float16, though 1 + 2⁻¹⁰ is
    nearer. So the step to float32 rounds to odd here (towards zero, then the last bit set if anything was lost), which
    keeps ties from arising.
    """
    import torch

    if dtype not in (torch.float16, torch.bfloat16):
        return values.to(dtype)
    single = values.float()
    bits = single.view(torch.int32)  # sign and magnitude: minus one is one step to zero
    bits = bits - (single.double().abs() > values.abs()).int()
    lost = bits.view(torch.float32).double() != values
    return (bits | lost.int()).view(torch.float32).to(dtype)


def _read_back(base: Base, staging: Path, site: TensorSite, wanted: Tensor) -> Stored:
    return stored_as(site, read_tensor(base.folder, site), read_tensor(staging, site), wanted)


def stored_as(site: TensorSite, before: Tensor, found: Tensor, wanted: Tensor) -> Stored:
    """What lies at a place that held `before`, holds `found` and was to hold `wanted` (float64)."""
    change = float((wanted - before.double()).norm())
    missed = float((found.double() - wanted).norm())
    error = missed / change if change else float(missed > 0)
    return Stored(site, _sha256(found), error, before=_sha256(before))


def _sha256(tensor: Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
