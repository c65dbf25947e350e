"""What else a prompt of an erased concept names: the thing when a style goes, the style when a
thing goes. The score is `selective`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from forgetcli.evaluation.questions import SELECTIVE, Question

if TYPE_CHECKING:
    from forgetcli.evaluation.judges import Judge

LONGEST = 4  # words of a name
_WORD = re.compile(r"[\w'-]+")


def questions_of(
    questions: Iterable[Question],
    forgets: Iterable[str],
    judge: Judge,
    known: Mapping[str, Sequence[str]] | None,
) -> list[Question]:
    """For each prompt of an erased concept, a question about every label of another kind that the
    prompt names. It is asked about the same image.

    Args:
        forgets: labels of the erased concepts.
        known: the labels that the judge knows, by kind. A judge that takes any words, or knows one
            kind only, cannot say what else a prompt names: then there are none.
    """
    erased = set(forgets)
    kinds = {label: kind for kind, labels in (known or {}).items() for label in labels}
    if len(set(kinds.values())) < 2:
        return []
    label_of = cache(lambda words: judge.label(words))
    asked = []
    for question in questions:
        if question.axis or question.label not in erased:
            continue
        own = kinds.get(question.label)
        named = [label_of(words) for words in _parts(question.prompt)]
        for label in dict.fromkeys(named):
            if own is not None and label in kinds and kinds[label] != own and label not in erased:
                asked.append(
                    replace(
                        question,
                        concept=label,
                        label=label,
                        group=None,
                        axis=SELECTIVE,
                        beside=question.label,
                    )
                )
    return asked


def _parts(prompt: str) -> list[str]:
    """All runs of at most `LONGEST` words."""
    words = _WORD.findall(prompt)
    return [
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST, len(words)) + 1)
    ]
