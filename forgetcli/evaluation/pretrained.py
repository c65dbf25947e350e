"""Models of transformers' own layout that a judge brings along: found in a folder or on the hub,
hashed, loaded from safetensors only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.storage import hub, safetensors
from forgetcli.storage.files import files_digest, sha256_file

SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")  # all of a model's files but the weights
PATTERNS = (*SETTINGS, "*.safetensors")  # no pickles
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json")
COPIES = (
    "*.fp16*",
    "*.bf16*",
    "consolidated*",
    "open_clip*",
)  # second copies of the weights, in other forms
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
SAFETENSORS_ONLY = "choose a model, or a revision of it (--judge-set revision=…), that has its weights as safetensors"


@dataclass(frozen=True)
class Weights:
    """A model on disk, in transformers' layout.

    Attributes:
        id: as the user named it: a path, ``org/name``.
        revision: the commit, for a model from the hub.
        folder: where its files are.
    """

    id: str
    revision: str | None
    folder: Path

    def identity(self) -> dict:
        """What a result was judged with: `digest` is of the weights, `config_digest` of all that
        decides how they are used.
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
        """The weight files that transformers reads, sorted; every header has been checked."""
        found = _weight_files(self.folder)
        for file in found:
            safetensors.read_header(self.folder, file)
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of `files`; the same wherever the folder is.
        Gigabytes take seconds.
        """
        return files_digest({file: sha256_file(self.folder / file) for file in self.files})

    @cached_property
    def config_digest(self) -> str:
        settings = {path.name for pattern in SETTINGS for path in self.folder.glob(pattern)}
        return files_digest({name: sha256_file(self.folder / name) for name in settings})

    def load(self, cls, **settings):
        """The network, ready to be asked. Never opens a pickle and never runs code that came with
        the model.

        Raises:
            ModelError: it cannot be read, or lacks a part: transformers would start that one from
                random numbers.
        """
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
        lost = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if lost:
            raise ModelError(
                "model.damaged",
                f"{self.folder} lacks {lost[0]}"
                + (f" and {len(lost) - 1} more" if lost[1:] else ""),
                "is it complete, and a model of this kind? fetch it again",
            )
        return network.eval().requires_grad_(False)

    def part(self, what: str, cls):
        """Tokenizer or processor.

        Raises:
            ModelError: it cannot be read.
        """
        return self._read(
            f"the {what}",
            lambda: cls.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            ),
        )

    def _read(self, what: str, reader):
        try:
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
            if (
                type(fault).__name__ == "OutOfMemoryError"
            ):  # one of the RuntimeErrors; the command line has words for it
                raise
            said = next(
                (line.strip() for line in str(fault).splitlines() if line.strip()),
                type(fault).__name__,
            ).split(". ")[0]
            hint = (
                "is the model complete? fetch it again"
                if not isinstance(fault, ImportError)
                else "pip install torchvision"
                if "torchvision" in said.lower()
                else "install the package that it names"
            )
            raise ModelError(
                "model.unreadable", f"cannot load {what} of {self.id}: {said}", hint
            ) from fault


def find(model: str, revision: str | None = None) -> Weights:
    """The model that a path or a hub id means: a folder that exists wins, then the local cache,
    then the network.

    Raises:
        ModelError: model.not-found, model.not-a-model, model.pickle, model.damaged, model.gated.
        OutputError: the cache's disk is full, or closed to us.
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
    name, revision = match["id"], revision or match["revision"]
    folder = hub.snapshot(name, revision, _is_complete, kind=KIND)
    _check(folder)
    return Weights(name, folder.name if folder.parent.name == "snapshots" else revision, folder)


def _check(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            "model.not-a-model",
            f"{folder} is no model in transformers' layout: it has no config.json",
            "give the folder that holds config.json and the weights",
        )
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        # transformers 5 makes a CLIP tokenizer without a vocabulary then, and all words are the
        # same to it.
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
