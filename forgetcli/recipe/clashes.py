"""Evaluation prompts that cannot be scored with the others, because the edit was made with their
words. No torch.

A prompt for a concept that must stay can name a concept that was erased: "a rocket, neon style" in
an edit of neon. Its image is meant to change. An indirect prompt can share words with what was
edited: "thick blue brushstrokes" beside the alias "thick swirling brushstrokes". It shows little
about words that the edit has not seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from forgetcli.recipe.model import Concept, Document, composed
from forgetcli.recipe.problems import clipped

# Words that say nothing about a concept: function words, and those that only frame a prompt.
_FUNCTION_WORDS = """
    a about above across after again against all along am among an and another any are around as
    at be because been before behind being below beneath beside between beyond both but by can could
    did do does doing down during each every few for from had has have having he her here him his
    how i if in inside into is it its just like many may me more most my near no nor not of off on
    one only onto or other our out outside over own per same she should so some somebody someone
    something such than that the their them then there these they this those through to too toward
    towards two under until up upon us very was we were what when where which while who whom whose
    why will with within without would you your s t
"""
_FRAMES = """
    art artwork artworks depicting depicted drawing drawings drawn image images made painted
    painting paintings people person photo photograph photographs photos picture pictures rendered
    rendering showing shown style styled styles
"""
STOP_WORDS = frozenset((_FUNCTION_WORDS + _FRAMES).split())
_WORD = re.compile(r"[^\W_]+")
_VOWEL = re.compile(r"[aeiouy]")
# The longest first. Letters that a stem shares with another word's stem do less harm here than a
# plural that is overlooked: a clash is a warning, not a fault.
_ENDINGS = ("ing", "ies", "ed", "es", "s", "e", "y")
_SHORTEST_STEM = 3


@dataclass(frozen=True)
class Clash:
    """An evaluation prompt that is scored apart.

    Attributes:
        kind: `NAMES` or `SHARES`.
        because: the erased concept that the prompt names, or the words that it shares.
    """

    kind: str
    prompt: str
    because: str


NAMES = "names"
SHARES = "shares"


class ErasedWords:
    """The words of the concepts that a recipe edits: concepts, aliases and further prompts.

    The words of the templates are not among them. Each template is filled with the concept and with
    its target, so the edit does not move what they say.
    """

    def __init__(self, concepts: Iterable[Concept]) -> None:
        self._phrases: dict[tuple[str, ...], str] = {}
        self._words: dict[str, frozenset[str]] = {}
        for concept in concepts:
            edited = (*concept.words, *concept.prompts)
            self._words[concept.concept] = frozenset(s for text in edited for s in content(text))
            for word in concept.words:
                self._phrases.setdefault(tuple(stems(_without_article(word))), concept.concept)
        self._phrases.pop((), None)
        self._lengths = sorted({len(phrase) for phrase in self._phrases})

    def named_in(self, prompt: str, kept: str = "") -> str | None:
        """The first erased concept that a prompt names, by itself or by an alias.

        Args:
            kept: the concept that the prompt is for. Its own words name nothing else: "a hot dog"
                does not name a dog.
        """
        found = _without(stems(prompt), stems(_without_article(kept)))
        for length in self._lengths:
            for start in range(len(found) - length + 1):
                concept = self._phrases.get(tuple(found[start : start + length]))
                if concept is not None:
                    return concept
        return None

    def shared_with(self, prompt: str, concepts: Collection[str]) -> list[str]:
        """The words of a prompt that were edited for one of `concepts`, in the prompt's order."""
        edited = frozenset[str]().union(*(self._words.get(name, ()) for name in concepts))
        return [word for word in _words(prompt) if word not in STOP_WORDS and stem(word) in edited]


def of_retained(erased: ErasedWords, prompts: Iterable[str], kept: str) -> Iterator[Clash]:
    """The prompts for a concept that must stay that name an erased one."""
    for prompt in prompts:
        concept = erased.named_in(prompt, kept)
        if concept is not None:
            yield Clash(NAMES, prompt, concept)


def of_indirect(
    erased: ErasedWords, prompts: Iterable[str], concepts: Collection[str]
) -> Iterator[Clash]:
    """The indirect prompts for erased concepts that share content words with what was edited.

    Args:
        concepts: the concepts that the prompts are for.
    """
    for prompt in prompts:
        words = erased.shared_with(prompt, concepts)
        if words:
            yield Clash(SHARES, prompt, ", ".join(dict.fromkeys(words)))


def of_document(document: Document, edited: Collection[str] = ()) -> Iterator[Clash]:
    """Every clash among a recipe's own evaluation prompts.

    Args:
        edited: prompts to leave out.
    """

    def others(prompts: Iterable[str]) -> list[str]:
        return [prompt for prompt in prompts if prompt not in edited]

    erased = ErasedWords(document.concepts)
    for concept in document.concepts:
        yield from of_indirect(erased, others(concept.indirect), (concept.concept,))
    for item in document.retain:
        yield from of_retained(erased, others((*item.direct, *item.indirect)), item.concept)


def in_words(clashes: Iterable[Clash], retained: int, indirect: int) -> Iterator[str]:
    """One line for each kind of clash, with its number and its first example.

    Args:
        retained: number of prompts for concepts that must stay.
        indirect: number of indirect prompts for erased concepts.
    """
    found = list(clashes)
    kinds = (
        (NAMES, retained, "retain prompts name an erased concept", "names '{}'"),
        (SHARES, indirect, "indirect prompts share words with what is edited", "shares {}"),
    )
    for kind, total, what, example in kinds:
        own = [clash for clash in found if clash.kind == kind]
        if own:
            because = example.format(clipped(own[0].because))
            yield (
                f"{len(own)} of {total} {what}: '{clipped(own[0].prompt)}' {because}; "
                "forget eval scores them apart"
            )


def stems(text: str) -> list[str]:
    """The stems of all words of a text, in order."""
    return [stem(word) for word in _words(text)]


def content(text: str) -> list[str]:
    """The stems of the words of a text that are no stop words, in order."""
    return [stem(word) for word in _words(text) if word not in STOP_WORDS]


def stem(word: str) -> str:
    """A lower-cased word without its English ending, so that "glowing" and "glow", "stories" and
    "story", "dancing" and "dance" agree.
    """
    for ending in _ENDINGS:
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= _SHORTEST_STEM and _VOWEL.search(rest):
            # "running" → "run"
            doubled = ending in ("ing", "ed") and rest[-1] == rest[-2] and rest[-1] not in "lsz"
            return rest[:-1] if doubled else rest
    return word


def _words(text: str) -> list[str]:
    return _WORD.findall(composed(text).casefold())


def _without(words: list[str], phrase: list[str]) -> list[str]:
    """`words` with an empty word in place of every occurrence of `phrase`."""
    result = list(words)
    for start in range(len(words) - len(phrase) + 1):
        if phrase and words[start : start + len(phrase)] == phrase:
            result[start : start + len(phrase)] = [""] * len(phrase)
    return result


def _without_article(word: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", composed(word).casefold())
