"""The kinds of concepts, and the prompt templates to edit, preserve and evaluate each kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

from forgetcli.pipeline.drafting.lexicon import same_meaning, words_like


@dataclass(frozen=True)
class Kind:
    """One kind of concept.

    Attributes:
        name: style, object, person or action.
        templates: templates of edit prompts. The first one is always ``{}``.
        preserve: templates of the prompts that preserve near concepts.
        evaluation: templates of evaluation prompts. None of them is in `templates` or `preserve`.
        comparison: the template in which the text encoder compares words of this kind.
    """

    name: str
    templates: tuple[str, ...]
    preserve: tuple[str, ...]
    evaluation: tuple[str, ...]
    comparison: str


THING_TEMPLATES = (
    "{}", "a picture of {}", "{} in a room", "a painting of {}", "a pencil sketch of {}",
    "a photo of {}",
)  # fmt: skip
THING_EVALUATION = (
    "a drawing of {}", "{} on a plain background", "an image of {}", "{} at night",
)  # fmt: skip

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "style",
            templates=(
                "{}", "{} painting of a dog", "a car in the style of {}",
                "{} picture of a mountain", "a guitar, {} style", "a person walking in {} style",
            ),
            preserve=(
                "{}", "{} painting of a cat", "a house in the style of {}", "{} picture of a tree",
            ),
            evaluation=(
                "a drawing of a flower in {} style", "{} image of a bird",
                "art of a boat, {} style", "a fish painted in the style of {}",
            ),
            comparison="a picture in {} style",
        ),
        Kind(
            "object",
            templates=THING_TEMPLATES,
            preserve=THING_TEMPLATES[:4],
            evaluation=THING_EVALUATION,
            comparison="a picture of {}",
        ),
        Kind(
            "person",
            templates=(*THING_TEMPLATES[:5], "a portrait of {}"),
            preserve=THING_TEMPLATES[:4],
            evaluation=THING_EVALUATION,
            comparison="a picture of {}",
        ),
        Kind(
            "action",
            templates=THING_TEMPLATES,
            preserve=THING_TEMPLATES[:4],
            evaluation=THING_EVALUATION,
            comparison="a picture of {}",
        ),
    )
}  # fmt: skip

# What the templates call an image. As a target it would say nothing of what the image shows.
IMAGE_WORDS = frozenset(
    re.findall(r"(\w+) of \{\}", " ".join((*THING_TEMPLATES, *THING_EVALUATION)))
)

# Nouns without an article. The word lists do not mark them.
_UNCOUNTED = """
    art blood bread chocolate clothing darkness dust fire fog food fur furniture gore grass hail
    hair ice jewelry lava light lightning money mud music nudity paper pornography rain sand
    smoke snow soil sunlight thunder traffic violence water weather wine wood
"""
UNCOUNTED = frozenset(_UNCOUNTED.split())
_ARTICLE = re.compile(r"^(?:an?|the|some)\s+", re.IGNORECASE)


def bare(text: str) -> str:
    """`text` without an article and without the person of an action: "running" for "a person
    running".
    """
    word = _ARTICLE.sub("", " ".join(text.split()))
    person = re.match(r"(?:person|someone|somebody)\s+(?=\w+ing\b)", word, re.IGNORECASE)
    return word[person.end() :] if person else word


def phrased(word: str, kind: str) -> str:
    """A bare word in the form for prompts of its kind: "a dog", "a person running", "monet"."""
    if kind == "action":
        return f"a person {word}"
    last = word.rsplit(" ", 1)[-1].casefold()
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if kind == "style" or plural or last in UNCOUNTED or not word.islower():
        return word
    vowel = word[0] in "aeiou" or word.startswith(("hour", "heir", "honest"))
    return f"{'an' if vowel else 'a'} {word}"


def names_an_image(word: str, kind: str) -> bool:
    """Whether a thing is an image, as a photograph is: another word for it is one of `IMAGE_WORDS`.
    A style or an action may be called like one ("drawing").
    """
    return kind == "object" and not IMAGE_WORDS.isdisjoint(
        other.casefold() for other in (word, *same_meaning(word, kind))
    )


def guessed(word: str) -> tuple[str, str]:
    """Guess the kind of a bare word from the word lists, or else from the word's form.

    Returns:
        the kind and the reason; both are empty if there is no guess.
    """
    for entry in words_like(word):
        return entry.kind, f"the word list has '{entry.name}' as one"
    if re.match(r"\w{2,}ing\b", word):
        return "action", "by its ending"
    if re.search(r"\b(?:style|art|painting|drawing)$", word):
        return "style", "by its last word"
    return "", ""
