"""Text files of prompts: one a line, blank lines and ``#`` comments left out. No torch."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from forgetcli.errors import ForgetError, ModelError
from forgetcli.recipe.problems import Sheet, clipped
from forgetcli.recipe.toml_lines import KeyPath
from forgetcli.storage.files import inside, is_pipe, open_regular, read_pipe

LONGEST_PROMPT = 10_000  # characters
_LINE_END = re.compile(r"\r\n|\n|\r")
LARGEST_FILE = 64_000_000  # bytes


def prompts_in(text: str) -> list[tuple[int, str]]:
    """The prompts of `text`, stripped, each with its line number (from 1).

    A line ends at a line feed, a carriage return or both. Unlike `str.splitlines`, the separators
    of Unicode (U+2028, NEL) and form feeds are characters of a prompt, as in editors and `grep -n`.
    """
    lines = ((number, line.strip()) for number, line in enumerate(_LINE_END.split(text), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def beside(folder: Path, name: str) -> Path:
    """The path of a prompt file that a recipe in `folder` names.

    A recipe's prompts go into the edited model, which may be published. A recipe from elsewhere
    must therefore not name files of its reader.

    Raises:
        ForgetError: file.outside: it is not below `folder`, also if a link leads out.
    """
    hint = "put the file beside the recipe, and name it relative to the recipe"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        message = f"the prompt file '{clipped(name)}' is not below the recipe's folder"
        raise ForgetError("file.outside", message, hint)
    try:
        inside(folder, folder / name)
    except ModelError as error:
        raise ForgetError(error.code, error.message, hint) from error
    return folder / name


def unreadable(error: ForgetError, path: KeyPath, sheet: Sheet) -> ForgetError:
    """The fault of a recipe whose key at `path` names a file that cannot be read."""
    if error.code == "file.outside":
        return ForgetError(error.code, f"{sheet.place(path)}: {error.message}", error.hint)
    hint = "prompt files are looked for beside the recipe"
    return sheet.problem("not-found", path, error.message, hint)


def read(path: Path, *, pipe: bool = False) -> list[tuple[int, str]]:
    """The prompts of a UTF-8 file.

    Args:
        pipe: also read a pipe, as the user named it on the command line.
    Raises:
        ForgetError: the file cannot be read (``prompts.not-found``) or is not UTF-8
            (``prompts.encoding``), or is too large (``file.too-large``).
    """
    try:
        if pipe and is_pipe(path):
            return read_stream(BytesIO(read_pipe(path, LARGEST_FILE)), str(path))
        with open_regular(path, limit=LARGEST_FILE) as stream:
            return read_stream(stream, str(path))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ForgetError("prompts.not-found", f"{path}: {reason}", "check the path") from error
    except ModelError as error:
        code = "prompts.not-found" if error.code == "file.not-regular" else error.code
        raise ForgetError(code, error.message, "check the path") from error


def read_stream(stream: BinaryIO, name: str = "stdin") -> list[tuple[int, str]]:
    """The prompts of an open file, `name` in messages.

    Raises:
        ForgetError: not UTF-8 (``prompts.encoding``), too large (``file.too-large``), or with a
            line that is no prompt (``prompts.too-long``).
    """
    try:
        data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ForgetError(
                "file.too-large",
                f"{name} is larger than {LARGEST_FILE // 10**6} MB",
                "give fewer prompts at a time",
            )
        prompts = prompts_in(data.decode("utf-8-sig"))
        for line, prompt in prompts:
            if len(prompt) > LONGEST_PROMPT:
                raise ForgetError(
                    "prompts.too-long",
                    f"{name}:{line}: {len(prompt)} characters, more than {LONGEST_PROMPT}",
                    "write one prompt a line",
                )
        return prompts
    except UnicodeDecodeError as error:
        raise ForgetError(
            "prompts.encoding", f"{name}: not UTF-8 text", "save it as UTF-8"
        ) from error
