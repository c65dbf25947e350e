"""The most frequent words of the tokenizer: a preserve set that every model has.

They protect concepts that no preserve prompt mentions. Their second moment is a ridge, not a
constraint, because it includes the concept's own words and their synonyms (about one word in a
thousand each), whose outputs the edit must be able to change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from forgetcli.bundled import word_lists
from forgetcli.models.tokens import Tokenizers

if TYPE_CHECKING:
    from forgetcli.models.tokens import Tokenizer

END = "</w>"  # marks the end of a word in CLIP's BPE vocabulary
COUNT = 2000  # words at most
# CLIP's tokenizer splits a text into these words.
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
MINIMUM_LETTERS = 3  # shorter entries are mostly fragments of words


def is_in_vocabulary(tokenizer: Tokenizer | Tokenizers, text: str) -> bool:
    """Whether every word of `text` is one token of the first tokenizer.

    A vocabulary has the frequent words of the captions that it was learnt from. Rarer words are
    split into several tokens, which other words contain too.
    """
    first = tokenizer.parts[0][1] if isinstance(tokenizer, Tokenizers) else tokenizer
    return len(first.tokenize(text)) <= len(_WORD.findall(text))


def words(tokenizer: Tokenizer | Tokenizers, count: int = COUNT) -> list[str]:
    """The `count` most frequent words of a BPE vocabulary, which is ordered by frequency.

    English words first: a vocabulary marks the ends of words, but the ending of a rarer word has
    the same mark. Of the first 2,000 marked entries of CLIP's vocabulary, half are endings ("ing",
    "tion", "ght"). Only where there are too few English words, other entries fill the rest.

    Only words of unaccented letters count. The other entries of CLIP's vocabulary are digits, emoji
    and fragments of words of other languages.
    """
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    marked = (token.removesuffix(END) for token, _ in ranked if token.endswith(END))
    entries = [
        entry
        for entry in marked
        if len(entry) >= MINIMUM_LETTERS and entry.isascii() and entry.isalpha()
    ]
    english = word_lists.english()
    # `sorted` keeps the order by frequency among equals.
    chosen = set(sorted(entries, key=lambda entry: entry not in english)[:count])
    return [entry for entry in entries if entry in chosen]
