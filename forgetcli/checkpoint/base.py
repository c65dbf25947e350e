"""The base model on disk: what a name or a path means, found and checked. Reads headers, no
weights.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from forgetcli.checkpoint.single_file import CONFIG, SingleFile, settings_files
from forgetcli.checkpoint.weights import PICKLES, WeightSet, locate, locate_all, weight_sets
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub
from forgetcli.storage.files import files_digest, sha256_file, walk_files
from forgetcli.storage.safetensors import TensorSite, WeightFile, read_tensor

__all__ = ["Base", "TensorSite", "locate", "read_tensor", "resolve"]

INDEX = "model_index.json"
OTHER_WEIGHTS = (
    *PICKLES,
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".ot",
    ".tflite",
    ".xml",
)
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
DISPENSABLE = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)  # pipelines run without; many copies lack them


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
        """The diffusers folder with configs, tokenizer and scheduler: the model's own, or the one
        that goes with a single file.

        Raises:
            ModelError: model.no-config: there is none for the single file, and none can be fetched.
        """
        return self.single.settings(self.config) if self.single else self.folder

    @cached_property
    def beside(self) -> dict[str, Path]:
        """Files that go with a single file into an edited copy, so that it can be loaded: path
        there → path here.
        """
        if self.single is None:
            return {}
        names = settings_files(self.settings, frozenset(self.single.keys.components))
        return {f"{CONFIG}/{name}": self.settings / name for name in names}

    def locate(self, component: str, parameter: str) -> list[TensorSite]:
        """Where a parameter lies, the place that loaders read by default first; then its other
        forms and running averages.

        Raises:
            ModelError: model.no-tensor; those of `WeightFile.sites`, `weight_sets`.
        """
        if self.single:
            return self.single.sites(component, parameter)
        return locate_all(
            self.folder,
            component,
            parameter,
            sets=self.weight_sets(component),
            weight_file=self.weight_file,
        )

    def weight_file(self, file: str) -> WeightFile:
        """A safetensors file of the model by its path within `folder`; its header is kept here."""
        if self.single and file == self.file:
            return self.single.weights
        return self._weight_files.setdefault(file, WeightFile(self.folder, file))

    def weight_sets(self, component: str) -> list[WeightSet]:
        """The forms of a diffusers component's weights; see `weights.weight_sets`. Kept here.

        Raises:
            ModelError: as `weights.weight_sets`.
        """
        if component not in self._weight_sets:
            self._weight_sets[component] = weight_sets(self.folder, component)
        return self._weight_sets[component]

    @cached_property
    def _weight_files(self) -> dict[str, WeightFile]:
        return {}

    @cached_property
    def _weight_sets(self) -> dict[str, list[WeightSet]]:
        return {}

    def parts(self, *prefixes: str) -> dict[str, str]:
        """Path → SHA-256 of all that components with these prefixes are made of; a single file
        counts whole.
        """
        beside = {path.removeprefix(f"{CONFIG}/"): source for path, source in self.beside.items()}
        return {
            path: digest
            for path, digest in self.files.items()
            if self.single or path.startswith(prefixes)
        } | {
            path: sha256_file(source)
            for path, source in beside.items()
            if path.startswith(prefixes)
        }

    @cached_property
    def drawn_by(self) -> str:
        """One name for all that decides what its pictures are: `digest`, for a single file with its
        settings.
        """
        return files_digest(
            self.files | {path: sha256_file(source) for path, source in self.beside.items()}
        )

    @property
    def reference(self) -> str:
        """What `resolve` takes for this very model: its id, with the commit where it has one."""
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @cached_property
    def files(self) -> dict[str, str]:
        """Relative posix path → SHA-256 of what makes up the model. Hashed when first asked for;
        gigabytes take
        seconds.

        Not part of it, and so not in an edited copy: hidden files; pictures; the model card and all
            else that forget
        itself adds to a folder; weights in other formats and single-file copies at the top level,
        which would stay
        *unedited* beside the edited ones and be loaded by mistake.
        """
        own = (
            [self.file]
            if self.file
            else [path for path in walk_files(self.folder) if _is_part(path)]
        )
        return {path: sha256_file(self.folder / path) for path in own}

    @property
    def digest(self) -> str:
        """SHA-256 over the lines ``path sha256\\n`` of `files`, sorted by path: one name for the
        whole.
        """
        return files_digest(self.files)


def _is_part(path: str) -> bool:
    *folders, name = path.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in (*folders, name)):
        return False
    if name.lower().endswith(IMAGES + OTHER_WEIGHTS):
        return False
    own = name in ("recipe.toml", "README.md") or (
        name.startswith("forget.") and name.endswith(".json")
    )
    return bool(folders) or not (own or name.endswith(".safetensors"))


def resolve(model: str | Path, *, config: Path | str | None = None, download: bool = True) -> Base:
    """The model that a name or a path means.

    ``demo`` is the model in this package (``./demo`` a folder); otherwise a folder or a single file
    that exists wins;
    otherwise ``org/name`` or ``org/name@revision`` on the hub, from the local cache or fetched.

    Args:
        config: for a single file, the diffusers folder (or hub id) that has its configs and
            tokenizer; by default it is
            looked for when it is needed.
        download: whether the network may be used.
    Raises:
        ModelError: model.not-found, model.not-a-model, model.pickle, model.damaged, model.gated.
    """
    if model == "demo":
        folder = Path(str(resources.files("forgetcli"))) / "bundled" / "model"
        if not (folder / INDEX).is_file():
            raise ModelError(
                "model.not-found",
                "the demo model is missing from this installation",
                "install forgetcli again",
            )
        return Base("demo", None, folder)
    name = (
        str(model) if str(model) != "demo" else "./demo"
    )  # Path("demo") is a folder, as Path("./demo") is
    path = Path(model).expanduser()
    if path.is_dir():
        if (file := edited_file(path)) is not None:
            return _single(name, file, config)
        return _checked(Base(name, None, path))
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise _no_folder(path)
        return _single(name, path, config)
    match = hub.NAME.fullmatch(name) if isinstance(model, str) else None
    if match is None:
        others = _similar(path, name)
        raise ModelError(
            "model.not-found",
            f"there is no model '{name}'",
            f"did you mean {' or '.join(others)}?"
            if others
            else "give a diffusers folder, org/name on the hub, or demo",
        )
    folder = hub.snapshot(match["id"], match["revision"], _is_complete, download=download)
    commit = folder.name if folder.parent.name == "snapshots" else match["revision"]
    return _checked(Base(match["id"], commit, folder))


def _similar(path: Path, name: str) -> list[str]:
    parent = path.parent
    here = [p for p in sorted(parent.iterdir()) if (p / INDEX).is_file()] if parent.is_dir() else []
    by_name = {p.name.lower(): str(p) for p in here}
    found = [by_name[m] for m in difflib.get_close_matches(path.name.lower(), by_name, 2, 0.6)]
    return (
        found
        + ["demo"] * bool(difflib.get_close_matches(name.lower(), ["demo"], 1, 0.7))
        + hub.near(name)
    )


def _single(name: str, path: Path, config: Path | str | None) -> Base:
    base = Base(name, None, path.parent, path.name, config)
    _ = base.single.keys  # its header is read, and its architecture is known
    return base


def edited_file(folder: Path) -> Path | None:
    """The single file in a folder that an edit of one made: settings beside it, and no
    model_index.json of its own.
    """
    files = [
        path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("forget.")
    ]
    return (
        files[0]
        if len(files) == 1
        and (folder / CONFIG / INDEX).is_file()
        and not (folder / INDEX).is_file()
        else None
    )


def _no_folder(path: Path) -> ModelError:
    if path.suffix.lower() in PICKLES:
        return ModelError(
            "model.pickle",
            f"{path} is a pickle, which can run code when it is opened",
            'if you trust it, convert it: python -c "from safetensors.torch import save_file; import torch; '
            f"m = torch.load('{path}', weights_only=True); m = m.get('state_dict', m); save_file({{k: v.contiguous() "
            f"for k, v in m.items() if torch.is_tensor(v)}}, '{path.stem}.safetensors')\"",
        )
    return ModelError(
        "model.not-a-model",
        f"{path} is a file, not a model",
        "give the folder that holds model_index.json, or a .safetensors file",
    )


def _is_complete(folder: Path) -> bool:
    try:
        _checked(Base("", None, folder))
    except ForgetError:
        return False
    return True


def _checked(base: Base) -> Base:
    """`base`, if its folder is a diffusers model with intact safetensors weights.

    Headers are read, weights are not.

    Raises:
        ModelError: model.not-a-model, model.pickle, model.damaged.
    """
    folder = base.folder
    index = folder / INDEX
    if not index.is_file():
        inside = sorted(p.parent.name for p in folder.glob(f"*/{INDEX}"))
        above = (folder.parent / INDEX).is_file()
        hint = (
            f"did you mean {folder / inside[0]}?"
            if inside
            else f"did you mean {folder.parent}?"
            if above
            else "give the folder that holds model_index.json"
        )
        raise ModelError(
            "model.not-a-model", f"{folder} is no diffusers model: it has no {INDEX}", hint
        )
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        entries["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(
            "model.not-a-model", f"{index} is not valid: {fault}", "fetch the model again"
        ) from fault
    for name, entry in entries.items():
        wanted = not name.startswith("_") and isinstance(entry, list) and None not in entry
        place = folder / name
        if wanted and not place.is_dir() and name not in DISPENSABLE:
            raise ModelError(
                "model.not-a-model",
                f"{folder} is incomplete: {INDEX} names {name}/, which is missing",
                "is the model complete? fetch it again",
            )
        if (
            wanted and (place / "config.json").is_file()
        ):  # a network; tokenizers and schedulers have other files
            for file in base.weight_sets(name)[0].names:
                _ = base.weight_file(f"{name}/{file}").sites
    return base
