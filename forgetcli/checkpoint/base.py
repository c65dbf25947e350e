"""The base model on disk: found by name or path, and checked. Reads headers, not weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from forgetcli.checkpoint import pipeline_index
from forgetcli.checkpoint.confinement import check_folder
from forgetcli.checkpoint.pipeline_index import DISPENSABLE, INDEX, PipelineIndex
from forgetcli.checkpoint.single_file import CONFIG, SingleFile, settings_files
from forgetcli.checkpoint.weights import PICKLES, WeightSet, locate, locate_all, weight_sets
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub
from forgetcli.storage.files import files_digest, sha256_file, walk_files
from forgetcli.storage.safetensors import TensorSite, WeightFile

__all__ = ["DISPENSABLE", "INDEX", "Base", "TensorSite", "locate", "resolve"]

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
# Code, which no model needs that forget loads, and which diffusers would run.
CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib")
# What file managers leave in folders, apart from hidden files.
STRAY = ("thumbs.db", "desktop.ini")
# The files that forget adds to an edited model, at its top level.
ADDED = (
    "recipe.toml",
    "README.md",
    "forget.ledger.json",
    "forget.ledger.safetensors",
    "forget.provenance.json",
    "forget.report.json",
    "forget.signature.json",
)


@dataclass(frozen=True)
class Base:
    """A model that can be edited: a diffusers folder, or a single file.

    Attributes:
        id: as the user named it: ``demo``, a path, ``org/name``.
        revision: the commit, for a model from the hub.
        folder: the folder that has its files.
        file: the single file's name in `folder`; None for a diffusers folder.
        config: the folder of a single file's settings as the user named it, or None.
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
        """The model's path: the folder or the single file."""
        return self.folder / self.file if self.file else self.folder

    @cached_property
    def settings(self) -> Path:
        """The diffusers folder with configs, tokenizer and scheduler: the model's own, or the one
        that goes with a single file.

        Raises:
            ModelError: model.no-config: there is none for the single file, and none can be fetched;
            those of `confinement.check_folder`.
        """
        if self.single is None:
            return self.folder
        settings = self.single.settings(self.config)
        check_folder(settings, _is_part)
        return settings

    @cached_property
    def beside(self) -> dict[str, Path]:
        """Files that are copied along with a single file, without which it cannot be loaded: path
        in the copy → path here.
        """
        if self.single is None:
            return {}
        names = settings_files(self.settings, frozenset(self.single.keys.components))
        return {f"{CONFIG}/{name}": self.settings / name for name in names}

    def locate(self, component: str, parameter: str) -> list[TensorSite]:
        """Where a parameter is stored: the default of loaders first, then its other forms and
        running averages.

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

    def refuse_unrecordable(self) -> None:
        """Refuse names that no manifest can hold, before any work is done.

        Raises:
            ModelError: model.bad-name: a name is not UTF-8.
        """
        paths = [self.file] if self.file else walk_files(self.folder)
        for path in (self.id, *(path for path in paths if self.file or _is_part(path))):
            try:
                path.encode("utf-8")
            except UnicodeEncodeError as fault:
                raise ModelError(
                    "model.bad-name",
                    f"the name {path!a} in {self.id!a} is not UTF-8",
                    "rename the file: a manifest is JSON and cannot hold its name",
                ) from fault

    def parts(self, *prefixes: str) -> dict[str, str]:
        """Path → SHA-256 of all files of the components with these prefixes.

        A single file is included whole.
        """
        parts = {
            path: digest
            for path, digest in self.files.items()
            if self.single or path.startswith(prefixes)
        }
        for beside, source in self.beside.items():
            path = beside.removeprefix(f"{CONFIG}/")
            if path.startswith(prefixes):
                parts[path] = sha256_file(source)
        return parts

    @cached_property
    def generation_digest(self) -> str:
        """One digest of everything that determines the model's images.

        It is `digest`, for a single file together with its settings.
        """
        beside = {path: sha256_file(source) for path, source in self.beside.items()}
        return files_digest(self.files | beside)

    @property
    def reference(self) -> str:
        """The name by which `resolve` finds exactly this model: its id, with the commit if any."""
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @cached_property
    def files(self) -> dict[str, str]:
        """Relative posix path → SHA-256 of the files that make up the model.

        They are hashed on first use; gigabytes take seconds. These files are not part of a model,
        and so not of an edited copy: hidden files; images; the model card and the other files that
        forget adds to a folder; code; weights in other formats and single-file copies at the top
        level. The last two would stay *unedited* beside the edited weights and be loaded by
        mistake.
        """
        if self.file:
            paths = [self.file]
        else:
            paths = [path for path in walk_files(self.folder) if _is_part(path)]
        return {path: sha256_file(self.folder / path) for path in paths}

    @property
    def digest(self) -> str:
        """One digest of `files`; see `files_digest`."""
        return files_digest(self.files)


def _is_part(path: str) -> bool:
    *folders, name = path.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in (*folders, name)):
        return False
    if name.lower().endswith(IMAGES + OTHER_WEIGHTS + CODE) or name.lower() in STRAY:
        return False
    return bool(folders) or (name not in ADDED and not name.endswith(".safetensors"))


def resolve(model: str | Path, *, config: Path | str | None = None, download: bool = True) -> Base:
    """The model that a name or a path means.

    ``demo`` is the model in this package (``./demo`` is a folder). Otherwise an existing folder or
    single file overrides ``org/name`` or ``org/name@revision`` on the hub, which is taken from the
    local cache or fetched.

    Args:
        config: for a single file, the diffusers folder (or hub id) that has its configs and
            tokenizer. By default it is searched for when it is needed.
        download: whether the network may be used.
    Raises:
        ModelError: model.not-found, model.not-a-model, model.pickle, model.damaged, model.gated.
    """
    if model == "demo":
        return _demo()
    # Path("demo") is a folder, as Path("./demo") is.
    name = "./demo" if str(model) == "demo" else str(model)
    path = Path(model).expanduser()
    if path.is_dir():
        file = edited_file(path)
        return _checked(Base(name, None, path)) if file is None else _single(name, file, config)
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise _no_folder(path)
        return _single(name, path, config)
    match = hub.NAME.fullmatch(name) if isinstance(model, str) else None
    if match is None:
        raise _unknown(path, name)
    folder = hub.snapshot(match["id"], match["revision"], _is_complete, download=download)
    commit = folder.name if folder.parent.name == "snapshots" else match["revision"]
    return _checked(Base(match["id"], commit, folder))


def refuse_unknown(model: str) -> None:
    """Refuse a name that can be no model, without opening anything: before libraries load.

    Raises:
        ModelError: model.not-found: it is no path, and cannot be a name on the hub.
    """
    path = Path(model).expanduser()
    if model != "demo" and not path.exists() and hub.NAME.fullmatch(model) is None:
        raise _unknown(path, model)


def _unknown(path: Path, name: str) -> ModelError:
    others = _similar(path, name)
    hint = (
        f"did you mean {' or '.join(others)}?"
        if others
        else "give a diffusers folder, org/name on the hub, or demo"
    )
    return ModelError("model.not-found", f"there is no model '{name}'", hint)


def _demo() -> Base:
    folder = Path(str(resources.files("forgetcli"))) / "bundled" / "model"
    if not (folder / INDEX).is_file():
        raise ModelError(
            "model.not-found",
            "the demo model is missing from this installation",
            "install forgetcli again",
        )
    return Base("demo", None, folder)


def _similar(path: Path, name: str) -> list[str]:
    """Similar names: of models in the same folder, of the demo model, of models on the hub."""
    parent = path.parent
    here = [p for p in sorted(parent.iterdir()) if (p / INDEX).is_file()] if parent.is_dir() else []
    by_name = {p.name.lower(): str(p) for p in here}
    matches = difflib.get_close_matches(path.name.lower(), by_name, 2, 0.6)
    demo = difflib.get_close_matches(name.lower(), ["demo"], 1, 0.7)
    return [by_name[match] for match in matches] + demo + hub.similar_names(name)


def _single(name: str, path: Path, config: Path | str | None) -> Base:
    if path.name in ADDED:
        raise ModelError(
            "model.not-a-model",
            f"{path} has a name that forget gives to a file of its own",
            "give the folder of the edited model, or rename the file",
        )
    base = Base(name, None, path.parent, path.name, config)
    if base.single is not None:
        # Reads the header and refuses files of an unknown architecture.
        _ = base.single.keys
    return base


def edited_file(folder: Path) -> Path | None:
    """The single file in a folder that an edit of a single file wrote; None for other folders.

    Such a folder has the file's settings in a subfolder, and no model_index.json itself.
    """
    files = [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if path.name not in ADDED and not path.name.startswith(".")
    ]
    has_settings = (folder / CONFIG / INDEX).is_file() and not (folder / INDEX).is_file()
    return files[0] if len(files) == 1 and has_settings else None


def _no_folder(path: Path) -> ModelError:
    if path.suffix.lower() in PICKLES:
        convert = (
            "from safetensors.torch import save_file; import torch; "
            f"m = torch.load('{path}', weights_only=True); m = m.get('state_dict', m); "
            "save_file({k: v.contiguous() for k, v in m.items() if torch.is_tensor(v)}, "
            f"'{path.stem}.safetensors')"
        )
        return ModelError(
            "model.pickle",
            f"{path} is a pickle, which can run code when it is opened",
            f'if you trust it, convert it: python -c "{convert}"',
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
        ModelError: model.not-a-model, model.pickle, model.damaged; those of `check_folder`.
    """
    folder = base.folder
    check_folder(folder, _is_part)
    for name in _index(folder).components:
        if name in DISPENSABLE:
            continue
        component = folder / name
        if not component.is_dir():
            raise ModelError(
                "model.not-a-model",
                f"{folder} is incomplete: {INDEX} names {name}/, which is missing",
                "is the model complete? fetch it again",
            )
        # Networks have a config.json; tokenizers and schedulers have other files.
        if (component / "config.json").is_file():
            for file in base.weight_sets(name)[0].names:
                _ = base.weight_file(f"{name}/{file}").sites
    return base


def _index(folder: Path) -> PipelineIndex:
    """A diffusers folder's model_index.json.

    Raises:
        ModelError: model.not-a-model.
    """
    if not (folder / INDEX).is_file():
        raise ModelError(
            "model.not-a-model",
            f"{folder} is no diffusers model: it has no {INDEX}",
            _index_hint(folder),
        )
    return pipeline_index.read(folder)


def _index_hint(folder: Path) -> str:
    inside = sorted(p.parent.name for p in folder.glob(f"*/{INDEX}"))
    if inside:
        return f"did you mean {folder / inside[0]}?"
    if (folder.parent / INDEX).is_file():
        return f"did you mean {folder.parent}?"
    return "give the folder that holds model_index.json"
