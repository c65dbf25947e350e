"""Text files of prompts: one a line, blank lines and ``#`` comments left out. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from forgetcli.errors import ForgetError


def prompts_in(text: str) -> list[tuple[int, str]]:
    """The prompts of `text`, stripped, each with its line number (from 1)."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def read(path: Path) -> list[tuple[int, str]]:
    """The prompts of a UTF-8 file.

    Raises:
        ForgetError: the file cannot be read (``prompts.not-found``) or is not UTF-8
            (``prompts.encoding``).
    """
    try:
        with path.open("rb") as stream:
            return read_stream(stream, str(path))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ForgetError("prompts.not-found", f"{path}: {reason}", "check the path") from error


def read_stream(stream: BinaryIO, name: str = "stdin") -> list[tuple[int, str]]:
    """The prompts of an open file, `name` in messages.

    Raises:
        ForgetError: not UTF-8 (``prompts.encoding``).
    """
    try:
        return prompts_in(stream.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ForgetError(
            "prompts.encoding", f"{name}: not UTF-8 text", "save it as UTF-8"
        ) from error
