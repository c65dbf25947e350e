"""Errors that a user can act on. Raised where the fault is known, turned into one line once, in
`cli/`.
"""

from __future__ import annotations

# Messages quote what files say, and files are hostile.
LONGEST_MESSAGE = 3000  # characters


class ForgetError(Exception):
    """A problem that stops the job, described so that a user can fix it.

    Args:
        code: stable, dotted, for scripts: ``recipe.unknown-key``.
        message: one line, with the file and line where there is one. The middle of a message of
            more than `LONGEST_MESSAGE` characters is left out.
        hint: what to do about it, or an empty string.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if len(message) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.message}"


class RecipeError(ForgetError):
    """A recipe that cannot be used; `problems` holds every fault, the first is this error."""

    def __init__(self, problems: list[ForgetError]) -> None:
        first = problems[0]
        super().__init__(first.code, first.message, first.hint)
        self.problems = problems


class ModelError(ForgetError):
    """A model that is missing, damaged, or not one that can be edited."""


class EditError(ForgetError):
    """An edit that cannot be computed, had no effect, or destroyed the model."""


class OutputError(ForgetError):
    """An output that cannot be written."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in messages: ``1 edit``, ``2 edits``.

    Args:
        plural: the noun's plural, if it is not the noun and an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
