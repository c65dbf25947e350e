"""What a user can choose of a drafted recipe."""

from __future__ import annotations

from dataclasses import dataclass

from forgetcli.bundled import word_lists


@dataclass(frozen=True)
class Options:
    """The user's choices. None: the draft chooses."""

    kind: str | None = None
    target: str | None = None
    aliases: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    near: tuple[str, ...] | None = None
    sets: tuple[str, ...] = tuple(word_lists.SETS)
    # The only concept that loses what is erased; None: all do.
    attribute_of: str | None = None
    # Whether the edit is to withstand attacks with the weights.
    robust: bool = False


OPTIONS = Options()  # the user has chosen nothing
