"""Near concepts: the neighbours of what was erased, which must stay. Their score is `adjacent`.

A recipe lists them in `[[near]]`. Where it lists none, they are the concepts that the judge knows
and that the unedited text encoder reads most like the erased concept, in the mean of the recipe's
templates. `forget erase` finds the concepts that it preserves in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.evaluation.questions import ADJACENT, Question, label_of, spoken
from forgetcli.pipeline.drafting import lexicon, similarity
from forgetcli.pipeline.drafting.draft import DISTINCT_COSINE, candidates, overlaps
from forgetcli.pipeline.drafting.kinds import KINDS, Kind, bare, guessed, phrased
from forgetcli.recipe.model import fill

if TYPE_CHECKING:
    from forgetcli.evaluation.judges import Judge
    from forgetcli.models.base import LoadedModel
    from forgetcli.recipe import Concept, Recipe

NEAR = 4  # near concepts of each erased concept
MOST = 12  # near concepts of a recipe
TEMPLATES = 2  # of a recipe that words are read in; more change little and take longer


@dataclass(frozen=True)
class Neighbour:
    """A near concept that was found.

    Attributes:
        words: as prompts have it.
        label: the judge's name of it.
        concept: the erased concept that it is near to.
        kind: of that concept, and so of this one.
    """

    words: str
    label: str
    concept: Concept
    kind: Kind


def questions_of(
    recipe: Recipe,
    judge: Judge,
    known: Mapping[str, Sequence[str]] | None,
    model: Callable[[], LoadedModel],
    count: int = NEAR,
) -> list[Question]:
    """The questions about near concepts.

    Args:
        known: the labels that the judge knows, by kind; None: it takes any words.
        model: the unedited model; asked for only if there is something to find.
        count: near concepts to find for each erased concept; 0: only those of `[[near]]`.
    Raises:
        ForgetError: eval.no-label: the judge has no name for a concept of `[[near]]`.
    """
    if recipe.near:
        return list(_listed(recipe, judge))
    if not count:
        return []
    return [
        question
        for each in neighbours(recipe, judge, known, model, count)
        for question in _asked(each, recipe, judge)
    ]


def _listed(recipe: Recipe, judge: Judge) -> Iterator[Question]:
    beside = label_of(judge, recipe.concepts[0].concept, recipe.concepts[0].label)
    for near in recipe.near:
        label = label_of(judge, near.concept, near.label)
        direct = near.direct
        if not direct and not near.indirect:
            kind = KINDS[guessed(bare(near.concept))[0] or "object"]
            direct = tuple(fill(template, near.concept) for template in kind.evaluation)
        for name, prompts in (("direct", direct), ("indirect", near.indirect)):
            for prompt in prompts:
                yield Question(
                    near.concept, label, prompt, name, near.group, axis=ADJACENT, beside=beside
                )


def _asked(near: Neighbour, recipe: Recipe, judge: Judge) -> Iterator[Question]:
    """The prompts of a retained concept, if it is one: their images are there already."""
    retained = [c for c in recipe.retain if judge.label(c.concept, c.label) == near.label]
    prompts = next((c.direct for c in retained if c.direct), None)
    beside = label_of(judge, near.concept.concept, near.concept.label)
    for prompt in prompts or [fill(template, near.words) for template in near.kind.evaluation]:
        yield Question(
            near.words,
            near.label,
            prompt,
            group=near.concept.group,
            axis=ADJACENT,
            beside=beside,
        )


def neighbours(
    recipe: Recipe,
    judge: Judge,
    known: Mapping[str, Sequence[str]] | None,
    model: Callable[[], LoadedModel],
    count: int = NEAR,
) -> list[Neighbour]:
    """At most `count` near concepts of each concept of the recipe, and `MOST` of all of them.

    What is erased, its aliases and other words for it, and its target are not among them.
    """
    erased = {judge.label(word, None) for c in recipe.concepts for word in c.words}
    erased |= {judge.label(c.concept, c.label) for c in recipe.concepts}
    found: dict[str, list[Neighbour]] = {}
    for kind, concepts in _by_kind(recipe.concepts, judge, known).items():
        words = {
            words: label
            for words, label in _candidates(kind, concepts, recipe, judge, known, model).items()
            if label not in erased
        }
        if not words:
            continue
        templates = recipe.prompts.templates[:TEMPLATES]
        similarities = similarity.compare_each(
            model(), [c.concept for c in concepts], list(words), templates
        )
        for concept in concepts:
            beside, same = similarities[concept.concept], _same(concept, kind, judge)
            found[concept.concept] = [
                Neighbour(other, words[other], concept, kind)
                for other in similarity.nearest(beside)
                if words[other] not in same
                and (known is not None or beside[other].cosine < DISTINCT_COSINE)
            ][:count]
    return _in_turn([found[c.concept] for c in recipe.concepts if c.concept in found])


def _by_kind(
    concepts: Sequence[Concept], judge: Judge, known: Mapping[str, Sequence[str]] | None
) -> dict[Kind, list[Concept]]:
    """The concepts that the judge has a name for."""
    found: dict[Kind, list[Concept]] = {}
    for concept in concepts:
        label = judge.label(concept.concept, concept.label)
        if label is not None:
            found.setdefault(_kind(concept, label, known), []).append(concept)
    return found


def _same(concept: Concept, kind: Kind, judge: Judge) -> set[str | None]:
    """Labels of the concept's target, and of what means the same as the concept."""
    same = {judge.label(word) for word in lexicon.same_meaning(bare(concept.concept), kind.name)}
    return same | ({judge.label(concept.target, concept.target_label)} if concept.target else set())


def _in_turn(found: Sequence[Sequence[Neighbour]]) -> list[Neighbour]:
    """The nearest of each concept, then the second nearest: each label once."""
    kept: dict[str, Neighbour] = {}
    for place in range(max(map(len, found), default=0)):
        for nearest in found:
            if place < len(nearest) and len(kept) < MOST:
                kept.setdefault(nearest[place].label, nearest[place])
    return list(kept.values())


def _kind(concept: Concept, label: str, known: Mapping[str, Sequence[str]] | None) -> Kind:
    """What the judge has the concept among, else what the word lists say."""
    for name, labels in (known or {}).items():
        if label in labels and name.removesuffix("s") in KINDS:
            return KINDS[name.removesuffix("s")]
    name, _ = guessed(bare(concept.concept))
    return KINDS[name or "object"]


def _candidates(
    kind: Kind,
    concepts: Sequence[Concept],
    recipe: Recipe,
    judge: Judge,
    known: Mapping[str, Sequence[str]] | None,
    model: Callable[[], LoadedModel],
) -> dict[str, str]:
    """What could be near to these concepts of one kind: as prompts call it → label.

    For a judge that takes any words, each word of the lists is its own label.
    """
    if known is not None:
        labels = {judge.label(c.concept, c.label) for c in concepts}
        called = getattr(judge, "words", lambda label: phrased(spoken(label), kind.name))
        return {
            called(label): label
            for own in known.values()
            if not labels.isdisjoint(own)
            for label in own
        }
    own = {bare(w).casefold() for c in recipe.concepts for w in (*c.words, c.target) if w}
    for concept in concepts:
        own |= {w.casefold() for w in lexicon.same_meaning(bare(concept.concept), kind.name)}
    words = [w for w in candidates(model(), kind.name) if not overlaps(w, own)]
    return {phrased(word, kind.name): phrased(word, kind.name) for word in words}
