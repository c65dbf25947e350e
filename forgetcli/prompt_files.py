"""Text files of prompts: one a line, blank lines and ``#`` comments left out. No torch."""
from __future__ import annotations

from pathlib import Path

from forgetcli.errors import ForgetError


def prompts_in(text: str) -> list[tuple[int, str]]:
    """The prompts of `text`, stripped, each with its line number (from 1)."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def read(path: Path) -> list[tuple[int, str]]:
    """The prompts of a UTF-8 file.

    Raises:
        ForgetError: the file cannot be read (``prompts.not-found``) or is not UTF-8 (``prompts.encoding``).
    """
    try:
        return prompts_in(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ForgetError("prompts.not-found", f"{path}: {error.strerror or error}", "one prompt a line") from error
    except UnicodeDecodeError as error:
        raise ForgetError("prompts.encoding", f"{path}: not UTF-8 text", "save it as UTF-8") from error
