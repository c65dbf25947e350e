"""A prompt set's file: its text, and the list of its faults."""

from __future__ import annotations

import codecs
from functools import cached_property
from pathlib import Path
from typing import Self

from forgetcli.errors import ForgetError, RecipeError
from forgetcli.storage.files import is_regular

MAX_BYTES = 64 << 20  # the largest known prompt set has 2 MiB


LONGEST_MESSAGE = 1_000  # characters


class PromptSetError(RecipeError):
    """A prompt set that cannot be used. `problems` lists every fault, as a recipe's error does."""


class Source:
    """A file, and the faults and warnings that are noted while it is read.

    Attributes:
        path: as the user gave it. Every message contains it.
        raw: the file's bytes.
        warnings: one line each.
    """

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path = path
        self.raw = raw
        self.warnings: list[str] = []
        self._problems: list[tuple[int, ForgetError]] = []

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file at `path`, which is read here and nowhere else.

        Raises:
            PromptSetError: the file cannot be read (``prompts.not-found``), is empty
                (``prompts.empty``) or larger than `MAX_BYTES` (``prompts.too-large``).
        """
        try:
            if path.exists() and not path.is_dir() and not is_regular(path):
                raise cls(path, b"").refusal(
                    "not-found", 0, "not a regular file", "save the prompts in a file"
                )
            with open(path, "rb") as file:
                source = cls(path, file.read(MAX_BYTES + 1))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise cls(path, b"").refusal("not-found", 0, reason, "check the path") from error
        if len(source.raw) > MAX_BYTES:
            raise cls(path, b"").refusal(
                "too-large", 0, f"larger than {MAX_BYTES >> 20} MiB", "split it into several files"
            )
        if not source.raw.removeprefix(codecs.BOM_UTF8).strip():
            raise source.empty()
        return source

    @cached_property
    def text(self) -> str:
        """The file as text, without a byte order mark.

        Raises:
            PromptSetError: the file is not UTF-8, or not text (``prompts.encoding``).
        """
        try:
            text = self.raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise self.refusal("encoding", line, "not UTF-8 text", "save it as UTF-8") from error
        # UTF-16, for instance, has NUL bytes.
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise self.refusal(
                "encoding", line, "there is a NUL byte: not UTF-8 text", "save it as UTF-8"
            )
        return text

    def fault(self, line: int, message: str, hint: str = "", code: str = "bad-row") -> None:
        """Note a fault.

        Args:
            line: of the file, from 1. 0 if the fault has no line.
            code: of the error, without ``prompts.``.
        """
        self._problems.append((line, self._problem(code, line, message, hint)))

    def warn(self, line: int, message: str) -> None:
        """Note something that is allowed but probably a mistake."""
        self.warnings.append(f"{self._place(line)}: {message}")

    def settle(self) -> None:
        """Check that no fault was noted.

        Raises:
            PromptSetError: with all faults, sorted by line.
        """
        if self._problems:
            raise PromptSetError(
                [problem for _, problem in sorted(self._problems, key=lambda noted: noted[0])]
            )

    def empty(self) -> PromptSetError:
        """The error for a file without prompts."""
        return self.refusal(
            "empty", 0, "there are no prompts in it", "write one prompt a line, or a row for each"
        )

    def refusal(self, code: str, line: int, message: str, hint: str = "") -> PromptSetError:
        """The error for a fault after which nothing more can be read."""
        return PromptSetError([self._problem(code, line, message, hint)])

    def _problem(self, code: str, line: int, message: str, hint: str) -> ForgetError:
        return ForgetError(
            f"prompts.{code}", f"{self._place(line)}: {_shortened(message)}", _shortened(hint)
        )

    def _place(self, line: int) -> str:
        return f"{self.path}:{line}" if line else str(self.path)


def _shortened(text: str) -> str:
    """A message that repeats a cell of a hostile file does not grow with it."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"
