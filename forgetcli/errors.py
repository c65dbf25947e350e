"""Errors that a user can act on. Raised where the fault is known, turned into one line once, in
`cli/`.
"""

from __future__ import annotations


class ForgetError(Exception):
    """Something that stops the job, said so that a user can mend it.

    Args:
        code: stable, dotted, for scripts: ``recipe.unknown-key``.
        message: one line, with the file and line where there is one.
        hint: what to do about it, or an empty string.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.message}"


class RecipeError(ForgetError):
    """A recipe that cannot be used; `problems` holds every fault found, this error being the first."""

    def __init__(self, problems: list[ForgetError]) -> None:
        first = problems[0]
        super().__init__(first.code, first.message, first.hint)
        self.problems = problems


class ModelError(ForgetError):
    """A model that is missing, damaged, or not one that can be edited."""


class EditError(ForgetError):
    """An edit that cannot be computed, had no effect, or wrecked the model."""


class OutputError(ForgetError):
    """A place that cannot be written to."""
