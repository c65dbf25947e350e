"""Models in transformers' layout that a judge uses: resolved, hashed and loaded.

They come from a folder or from the hub, and are loaded from safetensors files only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.process.quiet import quiet_libraries
from forgetcli.storage import hub, safetensors
from forgetcli.storage.files import files_digest, sha256_file

SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")  # all files of a model except the weights
PATTERNS = (*SETTINGS, "*.safetensors")  # no pickles
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json")
# Further copies of the weights, in other formats.
COPIES = ("*.fp16*", "*.bf16*", "consolidated*", "open_clip*")
KIND = hub.Kind(
    noun="the judge's model ",
    index="config.json",
    patterns=PATTERNS,
    extra=(),
    copies=COPIES,
    copies_suffice=False,
    revision_option="the revision",
    suggests=False,
)
SAFETENSORS_ONLY = (
    "choose a model, or a revision of it (--judge-set revision=…), "
    "that has its weights as safetensors"
)


@dataclass(frozen=True)
class Weights:
    """A model on disk, in transformers' layout.

    Attributes:
        id: as the user named it: a path, or ``org/name``.
        revision: the commit, for a model from the hub.
        folder: the folder of its files.
    """

    id: str
    revision: str | None
    folder: Path

    def identity(self) -> dict[str, Any]:
        """The model that a result was judged with.

        `digest` covers the weights, `config_digest` all files that decide how they are used.
        """
        return {
            "model": self.id,
            "revision": self.revision,
            "digest": self.digest,
            "config_digest": self.config_digest,
        }

    @cached_property
    def kind(self) -> str:
        """transformers' ``model_type``."""
        try:
            return str(
                json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["model_type"]
            )
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise ModelError(
                "model.not-a-model",
                f"{self.folder}/config.json is not valid: {fault}",
                "fetch the model again",
            ) from fault

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The weight files that transformers reads, sorted. Every header is checked."""
        files = _weight_files(self.folder)
        for file in files:
            safetensors.read_header(self.folder, file)
        return files

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of `files`, independent of the folder's place."""
        return files_digest({file: sha256_file(self.folder / file) for file in self.files})

    @cached_property
    def config_digest(self) -> str:
        """SHA-256 over the names and contents of all settings."""
        settings = {path.name for pattern in SETTINGS for path in self.folder.glob(pattern)}
        return files_digest({name: sha256_file(self.folder / name) for name in settings})

    def load(self, cls: Any, **settings: Any) -> Any:
        """The network in evaluation mode. No pickle is opened, and no code of the model is run.

        Raises:
            ModelError: it cannot be read, or lacks a weight, which transformers would initialise
                with random numbers.
        """
        # Checks the headers of the weight files.
        _ = self.files
        network, report = self._read(
            "the weights",
            lambda: cls.from_pretrained(
                self.folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            ),
        )
        missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if missing:
            others = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise ModelError(
                "model.damaged",
                f"{self.folder} lacks {missing[0]}{others}",
                "is it complete, and a model of this kind? fetch it again",
            )
        return network.eval().requires_grad_(False)

    def part(self, what: str, cls: Any) -> Any:
        """The tokenizer or processor.

        Args:
            what: its name in error messages.
            cls: transformers' class.
        Raises:
            ModelError: it cannot be read.
        """
        return self._read(
            f"the {what}",
            lambda: cls.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            ),
        )

    def _read(self, what: str, reader: Callable[[], Any]) -> Any:
        try:
            with quiet_libraries():
                return reader()
        except (
            OSError,
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            ImportError,
        ) as fault:
            # torch's OutOfMemoryError is a RuntimeError. The command line has a message for it.
            if type(fault).__name__ == "OutOfMemoryError":
                raise
            reason = _first_sentence(fault)
            if not isinstance(fault, ImportError):
                hint = "is the model complete? fetch it again"
            elif "torchvision" in reason.lower():
                hint = "pip install torchvision"
            else:
                hint = "install the package that it names"
            raise ModelError(
                "model.unreadable", f"cannot load {what} of {self.id}: {reason}", hint
            ) from fault


def _first_sentence(fault: Exception) -> str:
    lines = (line.strip() for line in str(fault).splitlines())
    first = next((line for line in lines if line), type(fault).__name__)
    return first.split(". ")[0]


def find(model: str, revision: str | None = None) -> Weights:
    """The model of a path or a hub id: an existing folder, the local cache, or a download.

    Raises:
        ModelError: model.not-found, model.not-a-model, model.pickle, model.damaged, model.gated.
        OutputError: the cache's disk is full or not writable.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        _check(path)
        return Weights(model, None, path)
    match = hub.NAME.fullmatch(model)
    if path.exists() or match is None:
        raise ModelError(
            "model.not-found",
            f"there is no model '{model}'",
            "give a folder in transformers' layout, or org/name on the hub",
        )
    name = match["id"]
    revision = revision or match["revision"]
    folder = hub.snapshot(name, revision, _is_complete, kind=KIND)
    _check(folder)
    commit = folder.name if folder.parent.name == "snapshots" else revision
    return Weights(name, commit, folder)


def _check(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            "model.not-a-model",
            f"{folder} is no model in transformers' layout: it has no config.json",
            "give the folder that holds config.json and the weights",
        )
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        # transformers 5 would make a CLIP tokenizer without a vocabulary, to which all words are
        # equal.
        raise ModelError(
            "model.not-a-model",
            f"{folder} has no tokenizer",
            "is the model complete? fetch it again",
        )
    _weight_files(folder)


def _weight_files(folder: Path) -> tuple[str, ...]:
    try:
        files = weight_sets(folder, "")[0].files
    except ModelError as fault:
        if fault.code != "model.pickle" and any(folder.glob("*.safetensors*")):
            raise
        raise ModelError(
            "model.pickle",
            f"{folder} has no weights as safetensors, and pickle can run code when it is opened",
            SAFETENSORS_ONLY,
        ) from fault
    return (files,) if isinstance(files, str) else tuple(sorted(set(files.values())))


def _is_complete(folder: Path) -> bool:
    try:
        _check(folder)
    except ModelError:
        return False
    return (folder / "tokenizer_config.json").is_file() and any(
        folder.glob("*processor_config.json")
    )
