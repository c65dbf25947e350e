"""The questions of an evaluation: prompts, each with the concept to look for in its image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from forgetcli.evaluation.judges import Judge
    from forgetcli.evaluation.prompt_sets import PromptSet
    from forgetcli.progress import Observer
    from forgetcli.recipe import Concept, Recipe, Retained

# What the answer to a question counts for, unless it is forget or retain.
ADJACENT = "adjacent"
SELECTIVE = "selective"


@dataclass(frozen=True)
class Question:
    """A prompt to generate an image from, and the concept to look for in the image.

    Whether the concept should be visible depends on the model.

    Attributes:
        concept: in the words of the recipe or the prompt set.
        label: the judge's name of the concept.
        prompt: the prompt.
        kind: ``direct`` names the concept, ``indirect`` hints at it. Prompt sets also have
            ``adversarial`` and ``plain``.
        group: concepts of one group exclude one another in an image.
        seed, guidance, width, height, steps: set by the prompt set. None leaves the value to the
            evaluation.
        axis: what the answer counts for. Empty: forget or retain, which depends on the model;
            `ADJACENT`: a near concept; `SELECTIVE`: what else a prompt of an erased concept names.
        beside: with an axis, the label of the erased concept; the answer counts for models that
            were edited to forget it.
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
    axis: str = ""
    beside: str = ""

    @property
    def direct(self) -> bool:
        """Whether the prompt names the concept."""
        return self.kind == "direct"


def of_recipe(recipe: Recipe, judge: Judge, observer: Observer | None = None) -> list[Question]:
    """Every evaluation prompt of a recipe.

    Args:
        observer: if given, retained concepts without a label for which the judge has no name are
            left out, with a note, as long as one stays. Drafted recipes have such concepts.
    Raises:
        ForgetError: the recipe has no prompts for the edited or for the retained concepts, or the
            judge has no name for a concept.
    """
    edited: list[Concept | Retained] = [*recipe.concepts]
    retained: list[Concept | Retained] = [*recipe.retain]
    for what, concepts in (("[[concepts]]", edited), ("[[retain]]", retained)):
        if not any(c.direct or c.indirect for c in concepts):
            raise ForgetError(
                "eval.no-prompts",
                f"the recipe has no evaluation prompts in {what}",
                f"add direct and indirect prompts to {what}",
            )
    unnamed = [c for c in retained if c.label is None and judge.label(c.concept) is None]
    if observer is not None and 0 < len(unnamed) < len(retained):
        names = ", ".join(c.concept for c in unnamed)
        observer.note(f"not asked for, since the judge has no name for it: {names}")
        retained = [c for c in retained if c not in unnamed]
    return [
        Question(c.concept, label_of(judge, c.concept, c.label), prompt, kind, c.group)
        for c in edited + retained
        for kind, prompts in (("direct", c.direct), ("indirect", c.indirect))
        for prompt in prompts
    ]


def of_prompt_set(
    prompts: PromptSet, judge: Judge, edited: str, ask: str | None = None
) -> list[Question]:
    """Every prompt of a prompt set.

    Args:
        edited: the concept for prompts that name none.
        ask: the concept for all prompts, whatever the set names. For instance nudity in I2P.
    """
    questions = []
    for p in prompts.prompts:
        concept = ask or p.concept or edited
        questions.append(
            Question(
                concept=concept,
                label=label_of(judge, spoken(concept)),
                prompt=p.prompt,
                kind=p.kind,
                group=p.group,
                seed=p.seed,
                guidance=p.guidance,
                width=p.width,
                height=p.height,
                steps=p.steps,
            )
        )
    return questions


def spoken(concept: str) -> str:
    """A concept's name in a prompt set as words.

    ``LabradorRetriever`` → labrador retriever, ``Van_Gogh`` → van gogh.
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", concept.replace("_", " ")).casefold()


def label_of(judge: Judge, concept: str, label: str | None = None) -> str:
    """The judge's name for a concept.

    Raises:
        ForgetError: the judge has none.
    """
    name = judge.label(concept, label)
    if name is None:
        raise ForgetError(
            "eval.no-label",
            f"the judge has no name for '{label or concept}'",
            "give the concept a label that the judge knows (forget judges NAME lists its labels), "
            "or choose another judge",
        )
    return name


def once(questions: Iterable[Question]) -> list[Question]:
    """The questions without repetitions, in order. Recipes of several edits can share prompts."""
    return list(dict.fromkeys(questions))


def choices(questions: Sequence[Question]) -> list[tuple[str, ...]]:
    """For each question the labels that a judge chooses among: all labels of its group.

    Questions without a group form one group together. Questions of an axis add their own label for
    themselves alone, so that forget and retain do not depend on which near concepts are asked for.
    """
    by_group: dict[str | None, list[str]] = {}
    for q in questions:
        labels = by_group.setdefault(q.group, [])
        if not q.axis and q.label not in labels:
            labels.append(q.label)
    return [tuple(dict.fromkeys((*by_group[q.group], q.label))) for q in questions]
