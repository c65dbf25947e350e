"""Drafts a recipe that erases an attribute from one concept only: the hat of cowboys, the Van Gogh
style of dogs.

Edit pairs are prompts that name both, each with the concept alone as its target. Preserved are the
concept without the attribute, the attribute on other concepts, and other attributes on the concept.
Prompts that name only the concept are not edited, so an attribute that their images have by default
stays in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting import lexicon
from forgetcli.pipeline.drafting.draft import (
    MOST_EVALUATED,
    MOST_NEAR,
    Choice,
    Draft,
    DraftedConcept,
    Neighbourhood,
    listed,
    neighbourhood,
    note_split,
    sets_choice,
)
from forgetcli.pipeline.drafting.kinds import KINDS, THING_EVALUATION
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.refusals import checked, refuse_invalid, refuse_untokenisable
from forgetcli.progress import Observer, Silent
from forgetcli.recipe.model import fill

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel

MOST_ALIASES = 2  # of the attribute, and of the concept: the number of pairs is a product of both
PRESERVED_PHRASES = 3  # edit phrases that also preserve other concepts with the attribute
# The pairs differ from the preserved prompts only in that both words are named, so the edit needs
# more free directions and a larger change than that of a concept. With nullspace's defaults (0.003
# and 1) "van gogh" left dogs in 5 of 16 images instead of 14; what had to stay stayed in all 36
# images with either (embedded model, docs/erase.md).
NULLSPACE = {"edit": {"threshold": 0.01}, "refine": {"damping": 0.1}}
RECIPE = "recipe.toml"  # where choices without an option can be changed


@dataclass(frozen=True)
class Phrases:
    """How prompts join a concept {t} and an attribute {a} of one kind.

    Attributes:
        edit: phrases to edit. The first one ends with the attribute.
        evaluation: phrases that are neither edited nor preserved.
        templates: templates of edit prompts, filled with a phrase.
    """

    edit: tuple[str, ...]
    evaluation: tuple[str, ...]
    templates: tuple[str, ...]


_IMAGES = ("{}", "a picture of {}", "a photo of {}")
PHRASES = {
    "style": Phrases(
        edit=(
            "{t} in the style of {a}", "{a} painting of {t}", "{a} picture of {t}",
            "{t}, {a} style", "{t} in {a} style",
        ),
        evaluation=(
            "a drawing of {t} in {a} style", "{a} image of {t}",
            "{t} painted in the style of {a}", "art of {t}, {a} style",
        ),
        templates=("{}",),
    ),
    "object": Phrases(
        edit=("{t} with {a}", "{t} wearing {a}", "{t} and {a}"),
        evaluation=(
            "a drawing of {t} with {a}", "{t} wearing {a} on a plain background",
            "an image of {t} that has {a}", "{t} with {a} at night",
        ),
        templates=_IMAGES,
    ),
    "person": Phrases(
        edit=("{t} with {a}", "{t} and {a}", "{t} beside {a}"),
        evaluation=(
            "a drawing of {t} with {a}", "{t} next to {a} on a plain background",
            "an image of {t} and {a}", "{t} together with {a} at night",
        ),
        templates=_IMAGES,
    ),
    "action": Phrases(
        edit=("{t} {a}", "{t} that is {a}", "{t} while {a}"),
        evaluation=(
            "a drawing of {t} {a}", "{t} {a} on a plain background",
            "an image of {t} who is {a}", "{t} {a} at night",
        ),
        templates=_IMAGES,
    ),
}  # fmt: skip


def joined(phrase: str, concept: str, attribute: str) -> str:
    """A phrase with its concept and its attribute."""
    return concept.join(part.replace("{a}", attribute) for part in phrase.split("{t}"))


@dataclass(frozen=True)
class _Words:
    """The words of a draft in the form for prompts; the first of each is the user's.

    Attributes:
        attributes, owners: the attribute and the concept, with their aliases.
        others: other attributes.
        holders: other concepts, which keep the attribute.
        alone: templates of prompts that preserve an attribute.
    """

    attributes: list[str]
    owners: list[str]
    others: list[str]
    holders: list[str]
    alone: tuple[str, ...]

    @staticmethod
    def of(
        word: str, holder: str, about: Neighbourhood, around: Neighbourhood, options: Options
    ) -> _Words:
        """`about` is the attribute's neighbourhood, `around` the concept's."""
        is_action = about.kind.name == "action"
        # All aliases that the user has given.
        aliases = about.aliases if options.aliases is not None else about.aliases[:MOST_ALIASES]
        attributes, others = (
            # "a dog running", not "a dog a person running".
            [text if is_action else about.phrase(text) for text in texts]
            for texts in ((word, *aliases), about.distinct[:MOST_NEAR])
        )
        owners = [around.phrase(text) for text in (holder, *around.aliases[:MOST_ALIASES])]
        named = around.distinct[:MOST_NEAR] if options.near is None else options.near
        holders = dict.fromkeys(around.phrase(checked(text)) for text in named)
        return _Words(
            attributes=attributes,
            owners=owners,
            others=others,
            holders=[text for text in holders if text not in owners],
            alone=("a person {}",) if is_action else about.kind.preserve,
        )


def draft(
    model: LoadedModel,
    attribute: str,
    owner: str,
    options: Options,
    observer: Observer | None = None,
) -> Draft:
    """Draft a recipe for erasing `attribute` from `owner`, and from nothing else.

    Args:
        model: the unedited model. Only its tokenizers and text encoders are loaded.
        attribute: a style, a thing, a person or an action in everyday words.
        owner: the concept that loses the attribute.
        options: kind, aliases and target are the attribute's. The target takes the attribute's
            place in the prompts. `near` are the concepts that keep the attribute.
    Raises:
        ForgetError: erase.attribute: the attribute means the concept; those of `draft.draft`.
    """
    observer = observer or Silent()
    word, holder = checked(attribute), checked(owner)
    refuse_invalid([word], options)
    refuse_same(word, holder)
    observer.stage("drafting", 2)
    choices: list[Choice] = []
    for text in (word, holder):
        note_split(model, text, observer)
    about = neighbourhood(model, word, [holder], options, choices)
    observer.advance()
    around = neighbourhood(model, holder, [word], Options(), choices, option=RECIPE)
    observer.advance()
    words = _Words.of(word, holder, about, around, options)
    concepts = _concepts(word, words, about, options)
    phrases = PHRASES[about.kind.name]
    templates = phrases.templates if options.templates is None else options.templates
    choices += _choices(word, holder, words, concepts[0], templates, options)
    result = Draft(
        concepts=concepts,
        templates=tuple(templates),
        preserve_prompts=_preserved(words, phrases, around, concepts, templates),
        evaluation_prompts=_evaluation(words, phrases),
        sets=options.sets,
        choices=tuple(choices),
        description=f"{words.owners[0]} is shown without '{word}'",
        nullspace=NULLSPACE,
    )
    edit_prompts = [
        fill(template, text)
        for each in concepts
        for text in (each.concept, *each.aliases, each.target)
        for template in templates
    ]
    refuse_untokenisable(model, [words.attributes[0], words.owners[0]], edit_prompts)
    return result


def refuse_same(attribute: str, owner: str) -> None:
    """Refuse an attribute that means the concept.

    Raises:
        ForgetError: erase.attribute.
    """
    same = [other for kind in KINDS for other in lexicon.same_meaning(owner, kind)]
    if attribute.casefold() in (owner.casefold(), *(other.casefold() for other in same)):
        raise ForgetError(
            "erase.attribute",
            f"'{attribute}' means '{owner}', so it is no attribute of it",
            f'to erase it everywhere: forget erase "{attribute}"',
        )


def _concepts(
    word: str, words: _Words, about: Neighbourhood, options: Options
) -> tuple[DraftedConcept, ...]:
    """One concept for the owner and for each of its aliases, so that a puppy with the attribute
    becomes a puppy without it. Only the first one is evaluated.
    """
    phrases = PHRASES[about.kind.name]
    named = checked(options.target) if options.target is not None else ""
    other = named if about.kind.name == "action" or not named else about.phrase(named)
    drafted = []
    for owner in words.owners:
        own = [joined(p, owner, each) for each in words.attributes for p in phrases.edit]
        first, *aliases = dict.fromkeys(own)
        is_asked = owner == words.owners[0]
        asked = [joined(p, owner, words.attributes[0]) for p in phrases.evaluation]
        drafted.append(
            DraftedConcept(
                concept=first,
                kind=about.kind,
                target=joined(phrases.edit[0], owner, other) if other else owner,
                aliases=tuple(aliases),
                near=(owner, words.attributes[0], *words.others) if is_asked else (),
                direct=tuple(asked) if is_asked else (),
                label=word,
            )
        )
    return tuple(drafted)


def _choices(
    word: str,
    holder: str,
    words: _Words,
    first: DraftedConcept,
    templates: Sequence[str],
    options: Options,
) -> list[Choice]:
    def why(given: object, reason: str) -> str:
        return reason if given is None else "given"

    without = why(options.target, f"the prompt without '{word}'")
    nearest = why(options.near, f"the encoder's nearest to '{holder}'")
    usual = why(options.templates, f"those for a {first.kind.name}")
    return [
        Choice(word, "target", first.target, without, "--to"),
        Choice(
            holder, "near", listed(words.holders, 6), f"{nearest}: they keep '{word}'", "--near"
        ),
        Choice(word, "near", listed(words.others, 6), f"'{holder}' keeps these", RECIPE),
        Choice("", "templates", listed(templates, 3), usual, "--template"),
        sets_choice(options),
    ]


def _preserved(
    words: _Words,
    phrases: Phrases,
    around: Neighbourhood,
    concepts: Sequence[DraftedConcept],
    templates: Sequence[str],
) -> tuple[str, ...]:
    """The concept alone, the attribute alone and on others, other attributes on the concept, and
    what is near either of them alone.
    """
    kept = phrases.edit[:PRESERVED_PHRASES]
    owner, attribute, thing = words.owners[0], words.attributes[0], around.kind.preserve
    prompts = [
        *(fill(template, text) for text in words.owners for template in thing),
        *(fill(template, text) for text in words.attributes for template in words.alone),
        *(joined(phrase, other, attribute) for other in words.holders for phrase in kept),
        *(joined(phrase, owner, other) for other in words.others for phrase in kept),
        *(fill(template, other) for other in words.holders for template in thing[:2]),
        *(fill(words.alone[0], other) for other in words.others),
    ]
    edited = {
        fill(template, text)
        for each in concepts
        for text in (each.concept, *each.aliases)
        for template in templates
    }
    return tuple(prompt for prompt in dict.fromkeys(prompts) if prompt not in edited)


def _evaluation(words: _Words, phrases: Phrases) -> dict[str, tuple[str, ...]]:
    """Concept that must stay → its evaluation prompts: the concept alone, the attribute on others,
    other attributes on the concept.
    """
    phrase = cycle(phrases.evaluation)
    owner, attribute = words.owners[0], words.attributes[0]
    asked = {
        owner: tuple(fill(template, owner) for template in THING_EVALUATION),
        attribute: tuple(
            joined(next(phrase), other, attribute) for other in words.holders[:MOST_EVALUATED]
        ),
        **{other: (joined(next(phrase), owner, other),) for other in words.others[:MOST_EVALUATED]},
    }
    return {name: prompts for name, prompts in asked.items() if prompts}
