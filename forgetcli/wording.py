"""Numbers with their nouns, in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 edit``, ``2 edits``; large numbers as they are.

    Args:
        plural: the noun's plural, if it is not the noun and an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
