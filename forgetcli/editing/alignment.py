"""Which token of a concept prompt corresponds to which token of its target prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from forgetcli.models.vocabulary import END as WORD_END

WORD_START = "▁"  # begins a word in T5's vocabulary
# The position of a token within its word, and the ids of the word's tokens.
Piece = tuple[int, tuple[int, ...]]
Positions = Literal[
    "last", "prompt-last", "from-last", "prompt-from-last", "all", "beside", "aligned"
]


def words(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Token ids up to the end-of-text token: the start token and the prompt's own."""
    ids = list(ids)
    if tokenizer.eos_token_id not in ids:
        return ids
    return ids[: ids.index(tokenizer.eos_token_id)]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[Piece]:
    """`words`, each token with the word that it is a piece of.

    So "jail-house" and "school-house" have no piece in common: the tokens "house" belong to two
    words. Compared by their ids alone, the subject of "a jailhouse" → "a schoolhouse" would end
    with "jail". Start tokens and textual inversions are words of their own.
    """
    read = words(tokenizer, ids)
    tokens = tokenizer.convert_ids_to_tokens(read)
    added = set(tokenizer.added_tokens_encoder.values())
    found: list[Piece] = []
    start = 0
    for stop in range(1, len(read) + 1):
        if (
            stop == len(read)
            or not added.isdisjoint(read[stop - 1 : stop + 1])
            or tokens[stop - 1].endswith(WORD_END)
            or tokens[stop].startswith(WORD_START)
        ):
            word = tuple(read[start:stop])
            found += [(at, word) for at in range(len(word))]
            start = stop
    return found


def shared_ends(concept: Sequence[Hashable], target: Sequence[Hashable]) -> tuple[int, int]:
    """Number of tokens that both prompts have in common at their start, including the start token,
    and at their end.

    The subject lies between. It has at least one token in both prompts: where a prompt only adds
    words ("dog" → "hot dog", "dog" → "dog toy"), the shared word next to them is the subject too.
    """
    limit = min(len(concept), len(target)) - 1
    start = 0
    while start < limit and concept[start] == target[start]:
        start += 1
    end = 0
    while start + end < limit and concept[-1 - end] == target[-1 - end]:
        end += 1
    return start, end


def subject_ends(concept: Sequence[Hashable], target: Sequence[Hashable]) -> tuple[int, int]:
    """Positions of the last subject token of both prompts; at least the first one after the start
    token.

    "van gogh" and "monet" in "a van gogh picture" → "a monet picture" end where the common "
    picture" begins.
    """
    _, end = shared_ends(concept, target)
    return max(1, len(concept) - 1 - end), max(1, len(target) - 1 - end)


def matches(
    concept: Sequence[Hashable], target: Sequence[Hashable], length: int, positions: Positions
) -> list[tuple[int, int]]:
    """Positions of the concept prompt, each with the position of the target prompt that it is
    mapped to.

    Args:
        concept, target: `pieces` of the prompts.
        length: of the padded prompts.
        positions: `last`: the last subject token. `prompt-last`: the last token of either prompt,
            which is the start token of an empty one. `from-last`, `prompt-from-last`: these and all
            after them, by their distance from them. `all`: every position to the same one of the
            target prompt. `beside`: all except the subject's own, those before it by position,
            those after it by distance. `aligned`: these and the subject's own, the last to the last
            (all that a longer concept has in front are mapped to the target's first).

    An empty target prompt has no subject. Its end token, the first one that the encoder reads
    there, stands for it, and again for the end token of the concept prompt.
    """
    if positions == "all":
        return [(i, i) for i in range(length)]
    if positions == "prompt-last":
        return [(len(concept) - 1, len(target) - 1)]
    if positions == "prompt-from-last":
        a, b = len(concept) - 1, len(target) - 1
        return [(a + k, b + k) for k in range(length - max(a, b))]
    a, b = subject_ends(concept, target)
    if positions == "last":
        return [(a, b)]
    end = b if len(target) > 1 else 0  # what stands before the tokens that follow
    after = [(a + k, end + k) for k in range(1, length - max(a, end))]
    if positions == "from-last":
        return [(a, b), *after]
    start = max(1, shared_ends(concept, target)[0])
    before = [(i, i) for i in range(start)]
    if positions == "beside":
        return before + after
    subject = [(i, max(start, b - (a - i))) for i in range(start, a + 1)]
    return before + subject + after
