"""The most frequent words of the tokenizer, as a preserve set that every model brings along.

They protect concepts that no preserve prompt mentions. Their second moment is a ridge and not a
constraint: the concept's own words and their synonyms are among them, about one word in a thousand
each, and these words must be free to move.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from forgetcli.models.tokens import Tokenizers

if TYPE_CHECKING:
    from forgetcli.models.tokens import Tokenizer

END = "</w>"  # marks the end of a word in CLIP's BPE vocabulary
COUNT = 2000  # words at most
_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")  # what CLIP's tokenizer reads as one word
MINIMUM_LETTERS = 3  # shorter entries are mostly fragments of words


def holds(tokenizer: Tokenizer | Tokenizers, text: str) -> bool:
    """Whether every word of `text` is one token of the first tokenizer.

    A vocabulary has the frequent words of the captions that it was learnt from. Others fall into
    pieces, which the encoder has met in other words.
    """
    first = tokenizer if not isinstance(tokenizer, Tokenizers) else tokenizer.parts[0][1]
    return len(first.tokenize(text)) <= len(_WORD.findall(text))


def words(tokenizer: Tokenizer | Tokenizers, count: int = COUNT) -> list[str]:
    """The `count` most frequent whole words of a BPE vocabulary, which is ordered by frequency.

    Only words of unaccented letters: the other entries of CLIP's vocabulary are digits, emoji and
    fragments of words of other languages.
    """
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    whole = (token.removesuffix(END) for token, _ in ranked if token.endswith(END))
    chosen = [
        word for word in whole if len(word) >= MINIMUM_LETTERS and word.isascii() and word.isalpha()
    ]
    return chosen[:count]
