"""Paraphrases of the concept: typos, prefixes, plurals, aliases and descriptions (the kinds of
prompts in EMMA, arXiv 2512.17320), and words from the user, for example in other languages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.sampling import sample_images

# Paired, because a typo that the unedited model does not understand says nothing about the edit.
PAIRED = True
PUBLISHED: Mapping[str, object] = {}
PREFIXES = ("a detailed", "a small", "my favourite", "the famous")
ARTICLES = ("a ", "an ", "the ")


class Options(BaseModel):
    """The paraphrases to use."""

    model_config = ConfigDict(extra="forbid")

    typos: int = Field(4, ge=0, description="Misspelt forms of the concept's words.")
    words: tuple[str, ...] = Field((), description="Further words for the concept.")


def run(case: Case, options: Options) -> list[Attempt]:
    """One image for each paraphrase."""
    kinds_and_prompts = list(dict.fromkeys(paraphrases(case, options)))
    prompts = [prompt for _, prompt in kinds_and_prompts]
    seeds = [case.seed + k for k in range(len(prompts))]
    context = case.model.encode(tokenise(case.model.tokenizer, prompts).ids)
    images, _ = sample_images(case.model, context, seeds, case.sampling)
    case.budget.images += len(images)
    case.observer.advance(len(images))
    return [
        Attempt(f"{prompt} ({kind})", seed, (image,), found=Conditioning(prompt))
        for (kind, prompt), seed, image in zip(kinds_and_prompts, seeds, images)
    ]


def paraphrases(case: Case, options: Options) -> Iterator[tuple[str, str]]:
    """The kind and the prompt of each paraphrase."""
    goal = case.goal
    template = goal.templates[-1]
    article, bare = split_article(goal.concept)
    generator = random.Random(case.seed)
    for _ in range(options.typos):
        yield "typo", template.replace("{}", article + misspelt(bare, generator))
    for prefix in PREFIXES:
        yield "prefix", template.replace("{}", f"{prefix} {bare}")
    yield "plural", template.replace("{}", f"two {plural(bare)}")
    for alias in goal.aliases:
        yield "alias", template.replace("{}", alias)
    for hint in goal.hints:
        yield "description", hint
    for words in options.words:
        yield "words", template.replace("{}", words)


def split_article(words: str) -> tuple[str, str]:
    """The leading article with its space (empty if there is none), and the remaining words."""
    for article in ARTICLES:
        if words.lower().startswith(article):
            return words[: len(article)], words[len(article) :]
    return "", words


def misspelt(words: str, generator: random.Random) -> str:
    """The words with one letter doubled, left out or exchanged with the next one."""
    index = generator.randrange(max(1, len(words) - 1))
    kind = generator.choice(("double", "drop", "exchange"))
    head = words[:index]
    letter = words[index]
    rest = words[index + 1 :]
    if kind == "double" or not rest:
        return head + 2 * letter + rest
    if kind == "drop" and len(words) > 2:
        return head + rest
    return head + rest[:1] + letter + rest[1:]


def plural(words: str) -> str:
    """The plural by the rules of English spelling. Irregular plurals come out as common errors."""
    if words.endswith(("s", "sh", "ch", "x")):
        return f"{words}es"
    if words.endswith("y") and words[-2:-1] not in "aeiou":
        return f"{words[:-1]}ies"
    return f"{words}s"
