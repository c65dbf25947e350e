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
    """The entries with this name; if there are none, those with this synonym.

    A synonym can be a surname: "king" is a king, and only without that entry Billie Jean King.
    """
    entries = [e for e in _index().get(text.casefold(), []) if kind in (None, e.kind)]
    named = [entry for entry in entries if entry.name.casefold() == text.casefold()]
    return named or entries


def of_kind(kind: str) -> list[Word]:
    """All words of a kind, the most common first."""
    return [word for word in word_lists.words() if word.kind == kind]


@cache
def _ordinary_words() -> frozenset[str]:
    """The words that the lists and preserve sets write in lower case."""
    texts = [prompt for name in word_lists.SETS for prompt in word_lists.preserve_set(name).prompts]
    for entry in word_lists.words():
        texts += [entry.name, entry.description]
        texts += [*entry.synonyms, *entry.narrower, *entry.broader]
    return frozenset(
        word for text in texts for word in word_lists.WORD.findall(text) if word.islower()
    )


@cache
def _bearers() -> dict[str, frozenset[str]]:
    """Capitalised word, in lower case → the entries that have it in their names or definitions."""
    bearers: dict[str, set[str]] = defaultdict(set)
    for entry in word_lists.words():
        for text in (entry.name, *entry.synonyms, entry.description):
            for word in word_lists.WORD.findall(text):
                if word[0].isupper():
                    bearers[word.casefold()].add(entry.name)
    return {word: frozenset(names) for word, names in bearers.items()}


def is_ambiguous(alias: str, text: str) -> bool:
    """Whether an alias of one word says something else in most prompts.

    Tokenizers ignore case: the surname of Grant Wood is also a material, that of Daniel Chester
    French a language, and David Smith is not the only Smith. So a proper name is ambiguous if it is
    an ordinary word too, or occurs in other entries' names or definitions.

    Args:
        text: the word that the alias stands for.
    """
    if " " in alias or not alias[0].isupper():
        return False
    folded = alias.casefold()
    others = _bearers().get(folded, frozenset()) - {entry.name for entry in words_like(text)}
    return folded in _ordinary_words() or bool(others)


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
