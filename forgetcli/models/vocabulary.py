"""The tokenizer's own words, as a preserve set that every model brings along: what a recipe's
author did not think of.

Their second moment is a ridge and not a constraint: the concept's own words and their synonyms are
among them, one word in
a thousand each, and those must be free to move.
"""

from __future__ import annotations

END = "</w>"  # how CLIP's BPE marks the end of a word
COUNT = 2000  # words at most
SHORTEST = 3  # letters: shorter ones are mostly pieces of words


def words(tokenizer, count: int = COUNT) -> list[str]:
    """The `count` most common whole words of a BPE vocabulary: merges are learnt in the order of
    their frequency.

    Only words of unaccented letters: the rest of CLIP's vocabulary is digits, emoji and half-words
    of other languages.
    """
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    whole = (token.removesuffix(END) for token, _ in ranked if token.endswith(END))
    return [word for word in whole if len(word) >= SHORTEST and word.isascii() and word.isalpha()][
        :count
    ]
