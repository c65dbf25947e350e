"""WordNet's nouns and verbs, from the files of its database (format: wndb(5))."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Lexicographer files by number: lexnames(5).
FILES = {
    4: "act", 5: "animal", 6: "artifact", 8: "body", 11: "event", 13: "food", 15: "location",
    17: "object", 18: "person", 19: "phenomenon", 20: "plant", 27: "substance", 28: "time",
    29: "verb.body", 33: "verb.competition", 34: "verb.consumption", 35: "verb.contact",
    36: "verb.creation", 38: "verb.motion",
}  # fmt: skip
WIDER, NARROWER = ("@", "@i"), ("~", "~i")
# Words that name people in ways that no list should hold.
UNFIT = (
    "offensive", "derogat", "disparag", "slur", "obscene", "vulgar", "slang", "ethnic", "sexual",
    "prostitut", "genital", "excre", "corpse", "feces", "breast", "nipple", "buttock", "nazi",
    "penis", "contracepti", "terroris", "slave", "idiot", "stupid", "contempt", "homosexual",
)  # fmt: skip


@dataclass(frozen=True)
class Synset:
    """Words with one meaning.

    Attributes:
        file: what kind of meaning: ``animal``; empty for those that are not used here.
        pointers: (symbol, id) of related synsets of the same part of speech.
    """

    file: str
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]
    gloss: str

    @property
    def fit(self) -> bool:
        return not any(word in self.gloss.casefold() for word in UNFIT)


class WordNet:
    """One part of speech.

    Args:
        folder: `dict/` of the database.
        part: ``noun`` or ``verb``.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.synsets: dict[str, Synset] = {}
        letter = part[0]
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            field = head.split()
            count = int(field[3], 16)
            words = tuple(field[4 + 2 * i].replace("_", " ") for i in range(count))
            start = 5 + 2 * count
            pointers = tuple(
                (field[i], field[i + 1])
                for i in range(start, start + 4 * int(field[start - 1]), 4)
                if field[i + 2] == letter
            )
            self.synsets[field[0]] = Synset(
                FILES.get(int(field[1]), ""), words, pointers, gloss.strip()
            )
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        digit = {"noun": "1", "verb": "2"}[part]
        for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
            key, place, sense, count_ = line.split()
            lemma, _, rest = key.partition("%")
            if rest[0] == digit:
                lemma = lemma.replace("_", " ")
                self.counts[lemma] += int(count_)
                if sense == "1":
                    self.first[lemma] = place

    def count(self, word: str) -> int:
        """How often the word occurs in the texts that WordNet's authors have annotated."""
        return self.counts[word.casefold()]

    @cached_property
    def _by_word(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for place, synset in self.synsets.items():
            for word in synset.words:
                found.setdefault((word, synset.file), place)
        return found

    def find(self, word: str, file: str) -> str:
        """The synset of a word among the meanings of one kind."""
        return self._by_word[word, file]

    def related(self, place: str, symbols: tuple[str, ...]) -> list[str]:
        return [to for symbol, to in self.synsets[place].pointers if symbol in symbols]

    def below(self, place: str, depth: int = 99) -> Iterator[str]:
        """Narrower synsets, nearest first, each once."""
        seen, level = {place}, [place]
        for _ in range(depth):
            level = [
                narrow
                for wide in level
                for narrow in dict.fromkeys(self.related(wide, NARROWER))
                if narrow not in seen and not seen.add(narrow)  # type: ignore[func-returns-value]
            ]
            yield from level
