"""Concepts and options that no recipe can be drafted for, with an error for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.bundled import word_lists
from forgetcli.errors import ForgetError
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.drafting import lexicon
from forgetcli.pipeline.drafting.kinds import KINDS, bare
from forgetcli.pipeline.drafting.options import Options
from forgetcli.recipe.problems import clipped, did_you_mean

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

LONGEST_CONCEPT = 100  # characters
MOST_CONCEPTS = 50


def checked(text: str) -> str:
    """A concept without its article.

    Raises:
        ForgetError: erase.concept: the text is not a concept.
    """
    word = bare(text)
    hint = 'give a concept in words, as in a prompt: forget erase "van gogh"'
    if not re.search(r"\w", word) or not any(char.isalpha() for char in word):
        raise ForgetError("erase.concept", f"'{clipped(text)}' has no word in it", hint)
    if len(word) > LONGEST_CONCEPT:
        message = f"'{clipped(text)}' has {len(word)} characters, more than {LONGEST_CONCEPT}"
        raise ForgetError("erase.concept", message, hint)
    if not word.isprintable():
        raise ForgetError("erase.concept", "a concept has control characters", hint)
    return word


def refuse_invalid(words: Sequence[str], options: Options) -> None:
    """Refuse concepts and options that are not valid for any model."""
    folded = [word.casefold() for word in words]
    for word in folded:
        if folded.count(word) > 1:
            raise ForgetError("erase.concept", f"'{word}' is named twice", "name it once")
    if len(words) > MOST_CONCEPTS:
        hint = "erase some first, then the others from the result: --model edited -o edited-2"
        message = f"{len(words)} concepts are more than {MOST_CONCEPTS}"
        raise ForgetError("erase.concept", message, hint)
    if options.aliases and len(words) > 1:
        hint = "erase them one after the other: --model edited -o edited-2"
        raise ForgetError("erase.alias", "--alias is for one concept", hint)
    if options.kind is not None and options.kind not in KINDS:
        hint = did_you_mean(options.kind, KINDS, "forget erase --help")
        raise ForgetError("erase.kind", f"there is no kind '{clipped(options.kind)}'", hint)
    for name in options.sets:
        if name not in word_lists.SETS:
            hint = did_you_mean(name, word_lists.SETS, "forget recipe sets")
            message = f"there is no preserve set '{clipped(name)}'"
            raise ForgetError("erase.set", message, hint)
    for template in options.templates or ():
        if template.count("{}") != 1:
            hint = 'write {} for the concept: --template "a photo of {}"'
            message = f"the template '{clipped(template)}' must have exactly one {{}}"
            raise ForgetError("erase.template", message, hint)
    if options.target is None:
        return
    target = checked(options.target)
    for word in words:
        same = [other.casefold() for kind in KINDS for other in lexicon.same_meaning(word, kind)]
        same += [checked(alias).casefold() for alias in options.aliases or ()]
        if target.casefold() in (word.casefold(), *same):
            raise ForgetError(
                "erase.target",
                f"'{options.target}' means '{word}': a concept cannot turn into itself",
                "give another target with --to, or leave --to out",
            )


def refuse_untokenisable(
    model: LoadedModel, concepts: Sequence[str], prompts: Sequence[str]
) -> None:
    """Refuse words that are too long for the model's prompts, and concepts with unknown tokens.

    Raises:
        ForgetError: edit.prompt-too-long, erase.concept.
    """
    tokenise(model.tokenizer, prompts, strict=True)
    for concept in concepts:
        _refuse_unknown(model, concept)


def _refuse_unknown(model: LoadedModel, word: str) -> None:
    tokenizer: Any = model.tokenizer
    unknown = getattr(tokenizer, "unk_token", None)
    if hasattr(tokenizer, "tokenize") and unknown and unknown in tokenizer.tokenize(word):
        raise ForgetError(
            "erase.concept",
            f"the model's tokenizer has no tokens for '{word}'",
            "write it in letters that occur in the captions of the model's training data",
        )
