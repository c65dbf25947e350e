"""Drafts a recipe: chooses everything that the user has not chosen, and gives the reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError
from forgetcli.models.vocabulary import is_in_vocabulary
from forgetcli.pipeline.drafting import lexicon, similarity
from forgetcli.pipeline.drafting.kinds import (
    KINDS,
    THING_TEMPLATES,
    Kind,
    bare,
    guessed,
    names_an_image,
    phrased,
)
from forgetcli.pipeline.drafting.options import OPTIONS, Options
from forgetcli.pipeline.drafting.refusals import checked, refuse_invalid, refuse_untokenisable
from forgetcli.pipeline.drafting.similarity import Similarity
from forgetcli.progress import Observer, Silent
from forgetcli.recipe.model import fill

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

CANDIDATES = 400  # the most common words of a kind, which are compared with the concept
SAME_COSINE = 0.9  # words with at least this cosine count as the concept itself
DISTINCT_COSINE = 0.6  # words below this cosine count as other concepts
MINIMUM_EFFECT = 0.8  # of a target, relative to the concept; see `Similarity.effect`
MOST_ALIASES = 6
MOST_NEAR = 24  # near concepts to preserve
MOST_EVALUATED = 8  # near concepts with evaluation prompts
VOTERS = 7  # similar words that vote on the kind of an unlisted concept


@dataclass(frozen=True)
class Choice:
    """One choice of the draft.

    Attributes:
        concept: the concept; empty for a choice that concerns all concepts.
        key: what was chosen: kind, target, aliases, near, templates, sets or layers.
        value: the chosen value.
        why: the reason; ``given`` if the user chose it.
        option: the command-line option to choose another value.
    """

    concept: str
    key: str
    value: str
    why: str
    option: str


@dataclass(frozen=True)
class DraftedConcept:
    """One concept of a draft, in the words of the recipe.

    Attributes:
        direct, indirect: evaluation prompts.
        near: similar concepts, beginning with the target. All are preserved, and the first ones are
            evaluated.
        label: the judge's name of the concept, if it is not in its words.
    """

    concept: str
    kind: Kind
    target: str
    aliases: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    indirect: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Neighbourhood:
    """What the word lists and the text encoder say about a word.

    Attributes:
        aliases: words that mean the same.
        broader: its hypernyms.
        distinct: other concepts of its kind, the most similar first.
        similarities: how words compare with it.
    """

    kind: Kind
    aliases: tuple[str, ...]
    broader: tuple[str, ...]
    distinct: tuple[str, ...]
    similarities: Mapping[str, Similarity]

    def phrase(self, word: str) -> str:
        """A word of this kind in the form for prompts."""
        return phrased(word, self.kind.name)


@dataclass(frozen=True)
class Draft:
    """The content of a drafted recipe, with reasons; `forgetcli.pipeline.drafting.text` writes it.

    Attributes:
        templates: templates of edit prompts.
        preserve_prompts: prompts to preserve.
        evaluation_prompts: near concept → its evaluation prompts.
        sets: names of preserve sets.
        choices: all choices, in the order in which they were made.
        description: of the recipe; empty: that the concepts are forgotten.
        nullspace: parameters of the method `nullspace` that differ from its defaults, by table.
    """

    concepts: tuple[DraftedConcept, ...]
    templates: tuple[str, ...]
    preserve_prompts: tuple[str, ...]
    evaluation_prompts: Mapping[str, tuple[str, ...]]
    sets: tuple[str, ...]
    choices: tuple[Choice, ...] = field(default=())
    description: str = ""
    nullspace: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


def draft(
    model: LoadedModel,
    concepts: Sequence[str],
    options: Options = OPTIONS,
    observer: Observer | None = None,
) -> Draft:
    """Draft a recipe for forgetting these concepts.

    Args:
        model: the unedited model. Only its tokenizers and text encoders are loaded.
        concepts: concepts in everyday words: "van gogh", "a dog", "running".
    Raises:
        ForgetError: erase.concept, erase.alias, erase.kind, erase.target, erase.template,
            erase.set: a concept or an option is not valid; edit.prompt-too-long.
    """
    observer = observer or Silent()
    words = [checked(text) for text in concepts]
    refuse_invalid(words, options)
    observer.stage("drafting", len(words))
    choices: list[Choice] = []
    drafted: list[DraftedConcept] = []
    for word in words:
        taken = [other for other in words if other is not word]
        taken += [bare(name) for earlier in drafted for name in (earlier.concept, *earlier.aliases)]
        note_split(model, word, observer)
        drafted.append(_drafted(model, word, taken, options, choices))
        observer.advance()
    result = _assembled(drafted, options, choices)
    edit_prompts = [
        fill(template, word)
        for each in result.concepts
        for word in (each.concept, *each.aliases, each.target)
        for template in result.templates
    ]
    refuse_untokenisable(model, [each.concept for each in result.concepts], edit_prompts)
    return result


def note_split(model: LoadedModel, word: str, observer: Observer) -> None:
    """Note a word that the tokenizer does not hold whole."""
    if not is_in_vocabulary(model.tokenizer, word):
        observer.note(
            f"the tokenizer splits '{word}' into several tokens: the model may not know it"
        )


def _drafted(
    model: LoadedModel,
    word: str,
    taken: Sequence[str],
    options: Options,
    choices: list[Choice],
) -> DraftedConcept:
    """Draft one concept, and add the choices to `choices`.

    Args:
        word: the concept without an article.
        taken: words of the other concepts, which cannot be targets or near concepts.
    """
    around = neighbourhood(model, word, taken, options, choices)
    target, why = _target(word, options, around)
    choices.append(Choice(word, "target", target, why, "--to"))
    if options.near is None:
        near = tuple(dict.fromkeys([target, *around.distinct]))[:MOST_NEAR]
        why = "the encoder's nearest that are something else"
    else:
        near = (target, *(checked(other) for other in options.near))
        why = "given"
    choices.append(Choice(word, "near", listed(near, 6), why, "--near"))
    return _phrased_concept(word, around.kind, target, around.aliases, near)


def neighbourhood(
    model: LoadedModel,
    word: str,
    taken: Sequence[str],
    options: Options,
    choices: list[Choice],
    option: str = "",
) -> Neighbourhood:
    """Look a word up in the word lists and compare it with other words of its kind. The choices of
    kind and aliases are added to `choices`.

    Args:
        word: a concept without an article.
        taken: words that are neither aliases nor other concepts.
        option: where the user can choose otherwise, if not by --kind and --alias.
    """
    kind, why = _kind(model, word, options)
    choices.append(Choice(word, "kind", kind.name, why, option or "--kind"))

    same = lexicon.same_meaning(word, kind.name)
    taken_folded = {other.casefold() for other in taken}
    excluded = {word.casefold(), *(other.casefold() for other in same), *taken_folded}
    synonyms = [
        other
        for other in same
        if is_in_vocabulary(model.tokenizer, other)
        and other.casefold() not in taken_folded
        and not lexicon.is_ambiguous(other, word)
    ]
    others = [other for other in candidates(model, kind.name) if not overlaps(other, excluded)]
    broader = [
        other
        for other in lexicon.broader(word, kind.name)
        if is_in_vocabulary(model.tokenizer, other)
    ]
    similarities = _similarities(
        model, word, list(dict.fromkeys([*synonyms, *others, *broader])), kind
    )
    ranked = similarity.nearest(similarities)

    if options.aliases is None:
        equal = [o for o in ranked if similarities[o].cosine >= SAME_COSINE and o in others]
        aliases = tuple(dict.fromkeys([*synonyms, *equal]))[:MOST_ALIASES]
        why = "same meaning, or read as the concept by the encoder"
    else:
        aliases = tuple(checked(alias) for alias in options.aliases)
        why = "given"
    choices.append(Choice(word, "aliases", listed(aliases), why, option or "--alias"))

    distinct = [
        other
        for other in ranked
        if similarities[other].cosine < DISTINCT_COSINE and other in others and other not in aliases
    ]
    return Neighbourhood(
        kind=kind,
        aliases=aliases,
        broader=tuple(other for other in broader if not overlaps(other, excluded)),
        distinct=tuple(distinct),
        similarities=similarities,
    )


def _kind(model: LoadedModel, word: str, options: Options) -> tuple[Kind, str]:
    """The kind of a concept, and the reason."""
    if options.kind:
        return KINDS[options.kind], "given"
    name, why = guessed(word)
    if name:
        return KINDS[name], why
    return KINDS[_voted(model, word)], "the encoder reads it among such words"


def _phrased_concept(
    word: str, kind: Kind, target: str, aliases: Sequence[str], near: Sequence[str]
) -> DraftedConcept:
    """A drafted concept with all words in the form for prompts, and with its evaluation prompts."""
    concept = phrased(word, kind.name)
    descriptions = [entry.description for entry in lexicon.words_like(word, kind.name)]
    return DraftedConcept(
        concept=concept,
        kind=kind,
        target=phrased(target, kind.name),
        aliases=tuple(phrased(alias, kind.name) for alias in aliases),
        near=tuple(phrased(other, kind.name) for other in near),
        direct=tuple(fill(template, concept) for template in kind.evaluation),
        indirect=tuple(dict.fromkeys(text for text in descriptions if text)),
    )


def candidates(model: LoadedModel, kind: str) -> list[str]:
    """The most common words of a kind that are in the tokenizer's vocabulary."""
    by_folded: dict[str, str] = {}
    for entry in lexicon.of_kind(kind):
        if len(by_folded) < CANDIDATES and is_in_vocabulary(model.tokenizer, entry.name):
            by_folded.setdefault(entry.name.casefold(), entry.name)
    return list(by_folded.values())


def _similarities(
    model: LoadedModel, word: str, others: Sequence[str], kind: Kind
) -> dict[str, Similarity]:
    """Compare other words of the kind with a concept."""
    phrases = [phrased(other, kind.name) for other in others]
    compared = similarity.compare(model, phrased(word, kind.name), phrases, kind.comparison)
    return {other: compared[phrase] for other, phrase in zip(others, phrases)}


def _target(word: str, options: Options, around: Neighbourhood) -> tuple[str, str]:
    """The target of a concept, and the reason."""
    if options.target is not None:
        return checked(options.target), "given"
    for why, words in (
        ("broader", around.broader),
        ("nearest that is something else", around.distinct),
    ):
        for other in words:
            compared = around.similarities[other]
            if names_an_image(other, around.kind.name):
                continue
            if compared.cosine < DISTINCT_COSINE and compared.effect >= MINIMUM_EFFECT:
                return other, f"{why}, similarity {compared.cosine:.2f}"
    raise ForgetError(
        "erase.target",
        f"the word lists have no word that is similar to '{word}' but distinct from it",
        "give a target with --to",
    )


def _voted(model: LoadedModel, word: str) -> str:
    """The most frequent kind among the words that are most similar to this one."""
    kind_of = {
        other: kind for kind in KINDS for other in candidates(model, kind)[: CANDIDATES // 4]
    }
    if not kind_of:
        return "object"
    similarities = similarity.compare(model, word, list(kind_of), "a picture of {}")
    votes = [kind_of[other] for other in similarity.nearest(similarities)[:VOTERS]]
    return max(dict.fromkeys(votes), key=votes.count)


def overlaps(word: str, excluded: set[str]) -> bool:
    """Whether a word contains an excluded word or is a part of one ("oil painting", "painting")."""
    folded = word.casefold()
    return any(
        re.search(rf"(?<!\w){re.escape(other)}(?!\w)", folded) or folded in other.split()
        for other in excluded
    )


def _assembled(drafted: Sequence[DraftedConcept], options: Options, choices: list[Choice]) -> Draft:
    """Choose templates and preserve sets, and combine the concepts into a draft."""
    kinds = list(dict.fromkeys(each.kind.name for each in drafted))
    if options.templates is not None:
        templates = options.templates
        why = "given"
    elif len(kinds) == 1:
        templates = drafted[0].kind.templates
        why = f"those for a {kinds[0]}"
    else:
        templates = THING_TEMPLATES
        why = "those for any kind"
    choices.append(Choice("", "templates", listed(templates, 3), why, "--template"))
    choices.append(sets_choice(options))
    forgotten = {name for each in drafted for name in (each.concept, *each.aliases)}
    edit_prompts = {fill(template, name) for name in forgotten for template in templates}
    preserve_prompts = [
        fill(template, other)
        for each in drafted
        for other in each.near
        if other not in forgotten
        for template in each.kind.preserve
    ]
    evaluation_prompts = {
        other: tuple(fill(template, other) for template in each.kind.evaluation[:2])
        for each in drafted
        for other in each.near[:MOST_EVALUATED]
        if other not in forgotten
    }
    return Draft(
        concepts=tuple(drafted),
        templates=tuple(templates),
        preserve_prompts=tuple(
            prompt for prompt in dict.fromkeys(preserve_prompts) if prompt not in edit_prompts
        ),
        evaluation_prompts=evaluation_prompts,
        sets=options.sets,
        choices=tuple(choices),
    )


def sets_choice(options: Options) -> Choice:
    """The choice of preserve sets."""
    why = "all that come with forget" if options.sets == OPTIONS.sets else "given"
    return Choice("", "sets", ", ".join(options.sets) or "none", why, "--sets")


def listed(words: Sequence[str], shown: int = 8) -> str:
    """The first words with commas, and the number of the others."""
    text = ", ".join(words[:shown]) or "none"
    rest = len(words) - shown
    return f"{text} and {rest} more" if rest > 0 else text
