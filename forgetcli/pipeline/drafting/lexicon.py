"""Look-ups in the word lists. Upper and lower case are the same."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from forgetcli.bundled import word_lists
from forgetcli.bundled.word_lists import Word

NARROWER = 3  # kinds of a thing that count as the thing


@cache
def _index() -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = defaultdict(list)
    for word in word_lists.words():
        found[word.name.casefold()].append(word)
    for word in word_lists.words():
        for other in word.synonyms:
            found[other.casefold()].append(word)
    return found


def words_like(text: str, kind: str | None = None) -> list[Word]:
    """Entries with this name, then those with this synonym."""
    entries = _index().get(text.casefold(), [])
    return [entry for entry in entries if kind in (None, entry.kind)]


def of_kind(kind: str) -> list[Word]:
    """All words of a kind, the most common first."""
    return [word for word in word_lists.words() if word.kind == kind]


def same_meaning(text: str, kind: str) -> list[str]:
    """Words for the same thing and the most common kinds of it, those for the same first."""
    same: dict[str, str] = {}
    for entry in words_like(text, kind):
        for other in (entry.name, *entry.synonyms, *entry.narrower[:NARROWER]):
            if other.casefold() != text.casefold():
                same.setdefault(other.casefold(), other)
    return list(same.values())


def broader(text: str, kind: str) -> list[str]:
    """What a word is a kind of."""
    return [wide for entry in words_like(text, kind) for wide in entry.broader]
