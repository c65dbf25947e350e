"""Files and folders as they are found: digests, listings, and whether one path contains another."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from forgetcli.errors import OutputError


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for a whole table of path → SHA-256.

    It is the SHA-256 of the lines ``path sha256\\n``, sorted by path.
    """
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def walk_files(folder: Path) -> list[str]:
    """Everything below `folder` except folders, as sorted relative posix paths.

    Links are followed, each folder once. The paths may include pipes and devices; a caller that
    reads them checks with `is_regular`.
    """
    paths: list[str] = []
    visited: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        paths += [Path(place, name).relative_to(folder).as_posix() for name in files]
    return sorted(paths)


def is_regular(path: Path) -> bool:
    """Whether reading `path` (or its link's target) gives bytes and ends.

    Pipes, devices and dangling links are not regular.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def refuse_overlap(
    output: Path,
    source: Path,
    *,
    kind: str = "",
    may_replace: bool = False,
    hint: str = "choose another folder with --output",
) -> None:
    """Refuse an output that lies in `source` or around it: writing it would change the source.

    Args:
        kind: what `source` is, for the message.
        may_replace: whether the output may be `source` itself.
    Raises:
        OutputError: output.overlaps-base.
    """
    resolved_output = output.resolve()
    resolved_source = source.resolve()
    nested = (
        resolved_source in resolved_output.parents or resolved_output in resolved_source.parents
    )
    if nested or (resolved_output == resolved_source and not may_replace):
        named = f"{kind} {source}" if kind else str(source)
        raise OutputError(
            "output.overlaps-base", f"{output} and {named} lie within one another", hint
        )
