"""The most frequent words of the tokenizer: a preserve set that every model has.

They protect concepts that no preserve prompt mentions. Their second moment is a ridge, not a
constraint, because it includes the concept's own words and their synonyms (about one word in a
thousand each), whose outputs the edit must be able to change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from forgetcli.models.tokens import Tokenizers

if TYPE_CHECKING:
    from forgetcli.models.tokens import Tokenizer

END = "</w>"  # marks the end of a word in CLIP's BPE vocabulary
COUNT = 2000  # words at most
_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")  # CLIP's tokenizer splits a text into these words
MINIMUM_LETTERS = 3  # shorter entries are mostly fragments of words


def is_in_vocabulary(tokenizer: Tokenizer | Tokenizers, text: str) -> bool:
    """Whether every word of `text` is one token of the first tokenizer.

    A vocabulary has the frequent words of the captions that it was learnt from. Rarer words are
    split into several tokens, which other words contain too.
    """
    first = tokenizer.parts[0][1] if isinstance(tokenizer, Tokenizers) else tokenizer
    return len(first.tokenize(text)) <= len(_WORD.findall(text))


def words(tokenizer: Tokenizer | Tokenizers, count: int = COUNT) -> list[str]:
    """The `count` most frequent whole words of a BPE vocabulary, which is ordered by frequency.

    Only words of unaccented letters count. The other entries of CLIP's vocabulary are digits, emoji
    and fragments of words of other languages.
    """
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    whole_words = (token.removesuffix(END) for token, _ in ranked if token.endswith(END))
    chosen = [
        word
        for word in whole_words
        if len(word) >= MINIMUM_LETTERS and word.isascii() and word.isalpha()
    ]
    return chosen[:count]
