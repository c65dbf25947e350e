"""The kinds of concepts, and the prompts that each kind is edited, kept and evaluated in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from forgetcli.pipeline.drafting.lexicon import words_like


@dataclass(frozen=True)
class Kind:
    """One kind of concept.

    Attributes:
        name: style, object, person or action.
        templates: edit prompts; the first is always ``{}``.
        keeping: prompts in which near concepts are preserved. No evaluation prompt is among them.
        asking: prompts of the evaluation, in which neither concept nor near concepts are edited.
        reading: the prompt in which the encoder compares words of this kind.
    """

    name: str
    templates: tuple[str, ...]
    keeping: tuple[str, ...]
    asking: tuple[str, ...]
    reading: str


THINGS = (
    "{}", "a picture of {}", "{} in a room", "a painting of {}", "a pencil sketch of {}",
    "a photo of {}",
)  # fmt: skip
ASKED = ("a drawing of {}", "{} on a plain background", "an image of {}", "{} at night")

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "style",
            (
                "{}", "{} painting of a dog", "a car in the style of {}",
                "{} picture of a mountain", "a guitar, {} style", "a person walking in {} style",
            ),
            ("{}", "{} painting of a cat", "a house in the style of {}", "{} picture of a tree"),
            (
                "a drawing of a flower in {} style", "{} image of a bird",
                "art of a boat, {} style", "a fish painted in the style of {}",
            ),
            "a picture in {} style",
        ),
        Kind("object", THINGS, THINGS[:4], ASKED, "a picture of {}"),
        Kind("person", (*THINGS[:5], "a portrait of {}"), THINGS[:4], ASKED, "a picture of {}"),
        Kind("action", THINGS, THINGS[:4], ASKED, "a picture of {}"),
    )
}  # fmt: skip

# What is said without an article: no word list tells.
_UNCOUNTED = """
    art blood bread chocolate clothing darkness dust fire fog food fur furniture gore grass hail
    hair ice jewelry lava light lightning money mud music nudity paper pornography rain sand
    smoke snow soil sunlight thunder traffic violence water weather wine wood
"""
UNCOUNTED = frozenset(_UNCOUNTED.split())
_ARTICLE = re.compile(r"^(?:an?|the|some)\s+", re.IGNORECASE)


def bare(text: str) -> str:
    """`text` without an article, and without the person that an action has: "a person running" is
    "running".
    """
    found = _ARTICLE.sub("", " ".join(text.split()))
    person = re.match(r"(?:person|someone|somebody)\s+(?=\w+ing\b)", found, re.IGNORECASE)
    return found[person.end() :] if person else found


def phrased(word: str, kind: str) -> str:
    """A bare word as prompts of its kind have it: "a dog", "a person running", "monet"."""
    if kind == "action":
        return f"a person {word}"
    last = word.rsplit(" ", 1)[-1].casefold()
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if kind == "style" or plural or last in UNCOUNTED or not word.islower():
        return word
    vowel = word[0] in "aeiou" or word.startswith(("hour", "heir", "honest"))
    return f"{'an' if vowel else 'a'} {word}"


def guessed(word: str) -> tuple[str, str]:
    """(kind, why) of a bare word by the word lists and by its form; empty if neither tells."""
    for entry in words_like(word):
        return entry.kind, f"the word list has '{entry.name}' as one"
    if re.match(r"\w{2,}ing\b", word):
        return "action", "by its ending"
    if re.search(r"\b(?:style|art|painting|drawing)$", word):
        return "style", "by its last word"
    return "", ""
