"""A prompt set's file as a format reads it: its text, its table or its keys, and the list of what
is wrong with it.
"""

from __future__ import annotations

import codecs
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError, RecipeError

if TYPE_CHECKING:
    from forgetcli.evaluation.prompt_sets.document import Document
    from forgetcli.evaluation.prompt_sets.table import Table

TABLES = (".csv", ".tsv", ".tab")


class PromptSetError(RecipeError):
    """A prompt set that cannot be used; `problems` holds every fault found, as a recipe's error
    does.
    """


class Sheet:
    """A file and what is found wrong with it while it is read.

    Args:
        path: as the user gave it; it is in every message.
        raw: the file's bytes.
    """

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path, self.raw = path, raw
        self.warnings: list[str] = []
        self._problems: list[tuple[int, ForgetError]] = []

    @classmethod
    def of(cls, path: Path) -> Sheet:
        """The file at `path`, which is read here and nowhere else.

        Raises:
            PromptSetError: it cannot be read (``prompts.not-found``) or nothing is in it
                (``prompts.empty``).
        """
        try:
            sheet = cls(path, path.read_bytes())
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise cls(path, b"").refusal("not-found", 0, reason, "check the path") from error
        if not sheet.raw.removeprefix(codecs.BOM_UTF8).strip():
            raise sheet.empty()
        return sheet

    @cached_property
    def text(self) -> str:
        """The file as text, without a byte order mark.

        Raises:
            PromptSetError: not UTF-8, or not text (``prompts.encoding``).
        """
        try:
            text = self.raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise self.refusal("encoding", line, "not UTF-8 text", "save it as UTF-8") from error
        if "\0" in text:  # what UTF-16 looks like, among others
            line = text[: text.index("\0")].count("\n") + 1
            raise self.refusal(
                "encoding", line, "there is a NUL byte: not UTF-8 text", "save it as UTF-8"
            )
        return text

    @cached_property
    def table(self) -> Table:
        """The file as a CSV with a header; faults of its form are noted."""
        from forgetcli.evaluation.prompt_sets.table import Table

        return Table(self)

    @cached_property
    def document(self) -> Document:
        """The file as TOML.

        Raises:
            PromptSetError: it is none (``prompts.bad-toml``).
        """
        from forgetcli.evaluation.prompt_sets.document import (
            Document,
        )  # lazy: pydantic comes with it

        return Document(self)

    @cached_property
    def header(self) -> tuple[str, ...]:
        """What formats are told by: the columns of a CSV, the top-level keys of a TOML file, else
        nothing.
        """
        suffix = self.path.suffix.lower()
        if suffix in TABLES:
            from forgetcli.evaluation.prompt_sets.table import columns_of

            return columns_of(self.text, suffix)
        return tuple(self.document.data) if suffix == ".toml" else ()

    def fault(self, line: int, message: str, hint: str = "", code: str = "bad-row") -> None:
        """Note a fault at `line`; 0 if it has none. `code` without its ``prompts.``."""
        self._problems.append((line, self._problem(code, line, message, hint)))

    def warn(self, line: int, message: str) -> None:
        """Note what is allowed and probably not meant."""
        self.warnings.append(f"{self._place(line)}: {message}")

    def settle(self) -> None:
        """Raise what was noted, from top to bottom.

        Raises:
            PromptSetError: anything was.
        """
        if self._problems:
            raise PromptSetError(
                [problem for _, problem in sorted(self._problems, key=lambda noted: noted[0])]
            )

    def empty(self) -> PromptSetError:
        """The file has no prompts."""
        return self.refusal(
            "empty", 0, "there are no prompts in it", "write one prompt a line, or a row for each"
        )

    def refusal(self, code: str, line: int, message: str, hint: str = "") -> PromptSetError:
        """An error to raise at once, because nothing can be read after it."""
        return PromptSetError([self._problem(code, line, message, hint)])

    def _problem(self, code: str, line: int, message: str, hint: str) -> ForgetError:
        return ForgetError(f"prompts.{code}", f"{self._place(line)}: {message}", hint)

    def _place(self, line: int) -> str:
        return f"{self.path}:{line}" if line else str(self.path)
