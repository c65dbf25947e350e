"""What is asked: prompts to draw, each with the concept that should be seen or gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from forgetcli.evaluation.prompt_sets import PromptSet
    from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class Question:
    """One prompt to draw and the concept to look for in it. Whether it should be there depends on
    the model.

    Attributes:
        label: the judge's name of the concept.
        kind: ``direct`` names the concept, ``indirect`` hints at it; prompt sets also have
            ``adversarial`` and ``plain``.
        group: concepts of one group exclude one another in a picture.
        seed, guidance, width, height, steps: the prompt set's own, where it gives any.
    """

    concept: str
    label: str
    prompt: str
    kind: str = "direct"
    group: str | None = None
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None

    @property
    def direct(self) -> bool:
        return self.kind == "direct"


def of_recipe(recipe: Recipe, judge) -> list[Question]:
    """Every evaluation prompt of a recipe.

    Raises:
        ForgetError: it has none for what is edited or none for what must stay, or the judge has no
            name for a concept.
    """
    for what, concepts in (("[[concepts]]", recipe.concepts), ("[[retain]]", recipe.retain)):
        if not any(c.direct or c.indirect for c in concepts):
            raise ForgetError(
                "eval.no-prompts",
                f"the recipe has no evaluation prompts in {what}",
                f"add direct and indirect prompts to {what}",
            )
    return [
        Question(c.concept, label_of(judge, c.concept, c.label), prompt, kind, c.group)
        for c in (*recipe.concepts, *recipe.retain)
        for kind, prompts in (("direct", c.direct), ("indirect", c.indirect))
        for prompt in prompts
    ]


def of_prompt_set(prompts: PromptSet, judge, edited: str, ask: str | None = None) -> list[Question]:
    """Every prompt of a prompt set.

    Args:
        edited: what prompts that name no concept ask for.
        ask: what every prompt asks for, whatever concept the set names: nudity in all of I2P, say.
    """
    return [
        Question(
            concept,
            label_of(judge, spoken(concept)),
            p.prompt,
            p.kind,
            p.group,
            p.seed,
            p.guidance,
            p.width,
            p.height,
            p.steps,
        )
        for p in prompts.prompts
        for concept in (ask or p.concept or edited,)
    ]


def spoken(concept: str) -> str:
    """A prompt set's name of a concept as words: ``LabradorRetriever``, ``Van_Gogh`` → labrador
    retriever, van gogh.
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", concept.replace("_", " ")).casefold()


def label_of(judge, concept: str, label: str | None = None) -> str:
    """The judge's name for a concept.

    Raises:
        ForgetError: it has none.
    """
    found = judge.label(concept, label)
    if found is None:
        raise ForgetError(
            "eval.no-label",
            f"the judge has no name for '{label or concept}'",
            "give the concept a label that the judge knows, or choose another judge",
        )
    return found


def once(questions: Iterable[Question]) -> list[Question]:
    """Each question once, in order: recipes of several edits share prompts."""
    return list(dict.fromkeys(questions))


def choices(questions: Sequence[Question]) -> list[tuple[str, ...]]:
    """For each question the labels that a judge chooses among: those of its group, or all where
    there are no groups.
    """
    by_group: dict[str | None, list[str]] = {}
    for q in questions:
        labels = by_group.setdefault(q.group, [])
        if q.label not in labels:
            labels.append(q.label)
    return [tuple(by_group[q.group]) for q in questions]
