"""Other words: typos, prefixes, plurals, aliases, descriptions (the depths at which EMMA asks,
arXiv 2512.17320), and whatever words are given, such as those of other languages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.sampling import draw

PAIRED = True  # a typo that the unedited model does not understand says nothing about an edit
PUBLISHED: Mapping[str, object] = {}
PREFIXES = ("a detailed", "a small", "my favourite", "the famous")
ARTICLES = ("a ", "an ", "the ")


class Options(BaseModel):
    """Which words."""

    model_config = ConfigDict(extra="forbid")

    typos: int = Field(4, ge=0, description="Misspelt forms of the concept's words.")
    words: tuple[str, ...] = Field((), description="Further words for the concept.")


def run(case: Case, options: Options) -> list[Attempt]:
    """One image of each paraphrase."""
    asked = list(dict.fromkeys(paraphrases(case, options)))
    prompts = [prompt for _, prompt in asked]
    seeds = [case.seed + k for k in range(len(prompts))]
    context = case.model.encode(tokenise(case.model.tokenizer, prompts).ids)
    images, _ = draw(case.model, context, seeds, case.sampling)
    case.budget.images += len(images)
    case.observer.advance(len(images))
    return [
        Attempt(f"{prompt} ({kind})", seed, (image,), found=Conditioning(prompt))
        for (kind, prompt), seed, image in zip(asked, seeds, images)
    ]


def paraphrases(case: Case, options: Options) -> Iterator[tuple[str, str]]:
    """(kind, prompt) of each."""
    goal = case.goal
    template = goal.templates[-1]
    article, bare = parted(goal.concept)
    chance = random.Random(case.seed)
    for _ in range(options.typos):
        yield "typo", template.replace("{}", article + misspelt(bare, chance))
    for prefix in PREFIXES:
        yield "prefix", template.replace("{}", f"{prefix} {bare}")
    yield "plural", template.replace("{}", f"two {plural(bare)}")
    for alias in goal.aliases:
        yield "alias", template.replace("{}", alias)
    for hint in goal.hints:
        yield "description", hint
    for words in options.words:
        yield "words", template.replace("{}", words)


def parted(words: str) -> tuple[str, str]:
    """The article with its blank, or nothing, and the rest."""
    for article in ARTICLES:
        if words.lower().startswith(article):
            return words[: len(article)], words[len(article) :]
    return "", words


def misspelt(words: str, chance: random.Random) -> str:
    """One letter doubled, left out, or exchanged with its neighbour."""
    place = chance.randrange(max(1, len(words) - 1))
    kind = chance.choice(("double", "drop", "exchange"))
    head, letter, rest = words[:place], words[place], words[place + 1 :]
    if kind == "double" or not rest:
        return head + 2 * letter + rest
    if kind == "drop" and len(words) > 2:
        return head + rest
    return head + rest[:1] + letter + rest[1:]


def plural(words: str) -> str:
    """By the rules of English spelling; irregular plurals come out wrong, as users type them."""
    if words.endswith(("s", "sh", "ch", "x")):
        return f"{words}es"
    if words.endswith("y") and words[-2:-1] not in "aeiou":
        return f"{words[:-1]}ies"
    return f"{words}s"
