"""Preserve sets of a recipe: their prompts, but for those about what is to be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterable

from forgetcli.bundled import word_lists

_ARTICLE = re.compile(r"^(?:an?|the)\s+")


def names() -> tuple[str, ...]:
    return tuple(word_lists.SETS)


def prompts_of(name: str, words: Iterable[str], edited: Iterable[str]) -> tuple[str, ...]:
    """The prompts of a set that do not speak of what is to be forgotten.

    Args:
        words: the concepts'; prompts that have one of them, also in the plural, are left out.
        edited: edit prompts, which are left out too.
    """
    prompts = word_lists.preserve_set(name).prompts
    about = _about(words)
    taken = {_folded(prompt) for prompt in edited}
    return tuple(
        prompt
        for prompt in prompts
        if _folded(prompt) not in taken and not about.search(_folded(prompt))
    )


def _about(words: Iterable[str]) -> re.Pattern[str]:
    bare = sorted({re.escape(_ARTICLE.sub("", _folded(word))) for word in words})
    return re.compile(rf"(?<!\w)(?:{'|'.join(bare)})(?:e?s)?(?!\w)")


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
