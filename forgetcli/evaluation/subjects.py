"""The models under evaluation, and the questions that all of them are asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.evaluation.judged import Subject
from forgetcli.evaluation.questions import (
    Question,
    choices,
    label_of,
    of_prompt_set,
    of_recipe,
    once,
)
from forgetcli.evaluation.run_folder import RUN, VERDICTS
from forgetcli.recipe import clashes

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base
    from forgetcli.evaluation.judges import Judge
    from forgetcli.evaluation.prompt_sets import PromptSet
    from forgetcli.progress import Observer
    from forgetcli.recipe import Recipe

UNEDITED = "unedited"
REPORTS = ("report.html", "results.json", "results.csv")  # beside the folders of the models


@dataclass(frozen=True)
class Asked:
    """The models under evaluation, and the questions that all of them are asked.

    Attributes:
        recipes: those whose evaluation prompts the questions are; none if a prompt set has them.
    """

    baseline: Subject
    edited: list[Subject]
    questions: list[Question]
    recipes: list[Recipe]


def subjects(
    folders: Sequence[Path | str],
    recipe: Recipe | None,
    prompts: PromptSet | None,
    ask: str | None,
    judge: Judge,
    observer: Observer,
) -> Asked:
    """The unedited model, the edited models, and the questions that all of them are asked.

    Args: see `evaluate`.

    Raises:
        ForgetError: see `evaluate`.
    """
    if not folders:
        raise ForgetError(
            "eval.no-model",
            "there is no edited model to evaluate",
            "name one or more edited folders",
        )
    edited: list[Subject] = []
    own_recipes: list[Recipe] = []
    questions: list[Question] = []
    bases: list[Base] = []
    for folder in map(Path, folders):
        manifest = EditedModel(folder).manifest
        bases.append(manifest.resolve_base())
        if bases[-1].digest != bases[0].digest:
            raise ForgetError(
                "eval.other-base",
                f"{folder} and {folders[0]} are edits of different models",
                "evaluate them one by one",
            )
        own_recipe = recipes.load(manifest.recipe_path)
        forgets = _labels(own_recipe, judge)
        if recipe is not None and forgets.isdisjoint(_labels(recipe, judge)):
            raise ForgetError(
                "eval.other-recipe",
                f"{folder} was edited by another recipe: it forgot {', '.join(sorted(forgets))}",
                "leave --recipe out, or name a recipe with prompts for that",
            )
        taken = [UNEDITED, VERDICTS, RUN, *REPORTS, *(subject.name for subject in edited)]
        own_recipes.append(own_recipe)
        edited.append(_subject(folder, unused(folder.resolve().name, taken), own_recipe, forgets))
        if prompts is not None:
            questions += of_prompt_set(prompts, judge, own_recipe.concepts[0].concept, ask)
        else:
            questions += of_recipe(recipe or own_recipe, judge, observer)
    questions = once(questions)
    if prompts is not None:
        _refuse_unrelated(questions, edited)
    edited = [
        replace(
            subject,
            targets=_targets(own, judge, questions),
            apart=apart(own, judge, questions, observer),
        )
        for subject, own in zip(edited, own_recipes)
    ]
    asking = [] if prompts is not None else [recipe] if recipe is not None else own_recipes
    return Asked(Subject(UNEDITED, bases[0]), edited, questions, asking)


def unused(name: str, taken: Iterable[str]) -> str:
    """`name`, with the first number from 2 that makes it differ from all of `taken`."""
    taken = set(taken)
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name}-{number}"
        number += 1
    return candidate


def _labels(recipe: Recipe, judge: Judge) -> frozenset[str]:
    """The judge's labels of the concepts that the recipe edits.

    A concept without a label is left out: no question asks for it, or `of_recipe` and
    `of_prompt_set` would refuse it.

    Raises:
        ForgetError: the judge has no label for any of the concepts.
    """
    labels = {judge.label(c.concept, c.label) for c in recipe.concepts} - {None}
    if not labels:
        label_of(judge, recipe.concepts[0].concept, recipe.concepts[0].label)
    return frozenset(label for label in labels if label is not None)


def _targets(
    recipe: Recipe, judge: Judge, questions: Sequence[Question]
) -> frozenset[tuple[str, str]]:
    """(label, target label) of the concepts whose target can be the judge's first choice."""
    first_choices = getattr(judge, "first_choices", None)
    if first_choices is None:
        return frozenset()
    wanted = {
        (judge.label(c.concept, c.label), judge.label(c.target, c.target_label))
        for c in recipe.concepts
    }
    return frozenset(
        (question.label, target)
        for question, among in zip(questions, choices(questions))
        for label, target in wanted
        if label == question.label and target is not None and target in first_choices(label, among)
    )


def apart(
    recipe: Recipe, judge: Judge, questions: Sequence[Question], observer: Observer
) -> frozenset[tuple[str, str]]:
    """(label, prompt) of the questions that use words of the edit. Prompts that the edit was made
    with are not among them.

    Args:
        observer: told one line for each kind of such questions.
    """
    erased = clashes.ErasedWords(recipe.concepts)
    edited = {prompt for prompt, _ in recipe.edit_pairs()}
    concepts: dict[str | None, list[str]] = {}
    for concept in recipe.concepts:
        concepts.setdefault(judge.label(concept.concept, concept.label), []).append(concept.concept)
    found: dict[tuple[str, str], clashes.Clash] = {}
    retained = indirect = 0
    for question in questions:
        clash: Iterable[clashes.Clash] = ()
        if question.label not in concepts:
            retained += 1
            clash = clashes.of_retained(erased, [question.prompt], question.concept)
        elif question.kind == "indirect":
            indirect += 1
            clash = clashes.of_indirect(erased, [question.prompt], concepts[question.label])
        if question.prompt in edited:
            continue
        for each in clash:
            found[question.label, question.prompt] = each
    for line in clashes.in_words(found.values(), retained, indirect):
        observer.note(f"warning: {line}")
    return frozenset(found)


def _subject(folder: Path, name: str, recipe: Recipe, forgets: frozenset[str]) -> Subject:
    return Subject(
        name=name,
        base=checkpoint.resolve(folder),
        forgets=forgets,
        edit_prompts=frozenset(prompt for prompt, _ in recipe.edit_pairs()),
        recipe_sha256=recipe.sha256,
    )


def _refuse_unrelated(questions: Sequence[Question], edited: Sequence[Subject]) -> None:
    if not any(q.label in subject.forgets for q in questions for subject in edited):
        raise ForgetError(
            "eval.other-prompts",
            "none of the prompts asks for a concept that the model was edited to forget",
            f"it forgot: {', '.join(sorted(edited[0].forgets))}",
        )
