"""Look-ups in the word lists. Case is ignored."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from forgetcli.bundled import word_lists
from forgetcli.bundled.word_lists import Word

MOST_NARROWER = 3  # hyponyms of a word that count as the same concept


@cache
def _index() -> dict[str, list[Word]]:
    """Name or synonym → the entries that have it, those with the name first."""
    index: dict[str, list[Word]] = defaultdict(list)
    for word in word_lists.words():
        index[word.name.casefold()].append(word)
    for word in word_lists.words():
        for synonym in word.synonyms:
            index[synonym.casefold()].append(word)
    return index


def words_like(text: str, kind: str | None = None) -> list[Word]:
    """The entries with this name, followed by those with this synonym."""
    entries = _index().get(text.casefold(), [])
    return [entry for entry in entries if kind in (None, entry.kind)]


def of_kind(kind: str) -> list[Word]:
    """All words of a kind, the most common first."""
    return [word for word in word_lists.words() if word.kind == kind]


def same_meaning(text: str, kind: str) -> list[str]:
    """The synonyms of a word, followed by its most common hyponyms ("puppy" for "dog")."""
    same: dict[str, str] = {}
    for entry in words_like(text, kind):
        for other in (entry.name, *entry.synonyms, *entry.narrower[:MOST_NARROWER]):
            if other.casefold() != text.casefold():
                same.setdefault(other.casefold(), other)
    return list(same.values())


def broader(text: str, kind: str) -> list[str]:
    """The hypernyms of a word ("animal" for "dog")."""
    return [hypernym for entry in words_like(text, kind) for hypernym in entry.broader]
