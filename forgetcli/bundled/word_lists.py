"""The word lists that come with forget: preserve sets, and words by kind. No torch.

Their sources and licences are in `words/README.md`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "words"
WORD = re.compile(r"(?<![\w'-])[A-Za-z]+(?![\w'-])")
WORDNET, CLDR, OWN = "WordNet", "Unicode-3.0", "MIT"
# Sets by name: what is in them, and the licences of their words.
SETS = {
    "objects": ("things, animals, plants, food and places", (WORDNET, CLDR)),
    "styles": ("artists, movements, and techniques", (WORDNET, OWN)),
    "people": ("names of people, roles, and what people do", (WORDNET, CLDR, OWN)),
    "scenes": ("landscapes, buildings, rooms and weather", (WORDNET, OWN)),
    "captions": ("sentences about several things", (WORDNET, CLDR)),
}


@dataclass(frozen=True)
class PreserveSet:
    """Prompts that a recipe preserves by the name of the set.

    Attributes:
        sha256: digest of the file, which is the set's version.
        licences: of the word lists that the prompts were made of.
    """

    name: str
    description: str
    prompts: tuple[str, ...]
    sha256: str
    licences: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A word of one kind.

    Attributes:
        kind: style, object, person or action.
        synonyms: words of the same meaning. They mean nothing else that is more common.
        narrower: kinds of it, the most common first.
        broader: what it is a kind of.
        description: its definition, or empty.
    """

    kind: str
    name: str
    synonyms: tuple[str, ...] = ()
    narrower: tuple[str, ...] = ()
    broader: tuple[str, ...] = ()
    description: str = ""


@cache
def preserve_set(name: str) -> PreserveSet:
    """A set by its name.

    Raises:
        KeyError: there is none.
    """
    description, licences = SETS[name]
    data = (FOLDER / f"{name}.txt").read_bytes()
    prompts = tuple(data.decode("utf-8").splitlines())
    return PreserveSet(name, description, prompts, hashlib.sha256(data).hexdigest(), licences)


@cache
def words() -> tuple[Word, ...]:
    """All words, by kind, the most common of a kind first (styles: artists first)."""
    lines = (FOLDER / "lexicon.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(_word(*line.split("\t")) for line in lines)


@cache
def english() -> frozenset[str]:
    """The words of all names, definitions and prompts, in lower case: some 11,000 of English.

    Parts of words with a hyphen or an apostrophe are not among them.
    """
    texts = [(FOLDER / "lexicon.tsv").read_text(encoding="utf-8")]
    texts += [prompt for name in SETS for prompt in preserve_set(name).prompts]
    return frozenset(WORD.findall("\n".join(texts).casefold()))


def _word(
    kind: str, name: str, synonyms: str, narrower: str, broader: str, description: str
) -> Word:
    same, below, above = (
        tuple(filter(None, text.split(";"))) for text in (synonyms, narrower, broader)
    )
    return Word(kind, name, same, below, above, description)
