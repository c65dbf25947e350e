"""Near concepts, what else a prompt names, and the scores of both."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.artifact.weight_change import weight_change
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.evaluation import Answer, Question, Run, Subject, judges, named, near
from forgetcli.evaluation.err import Err
from forgetcli.evaluation.figure import NOTHING, Figure
from forgetcli.evaluation.questions import ADJACENT, SELECTIVE, choices
from forgetcli.evaluation.run import EvaluationSettings, _identity
from forgetcli.evaluation.scores import score, summary
from forgetcli.models.base import LoadedModel
from forgetcli.pipeline.drafting import similarity

RECIPE = """
schema_version = 1
prompts = {templates = ["{}"]}
concepts = [{concept = "a dog", target = "a cat", aliases = ["a kitten", "a pine tree"],
  direct = ["a dog"]}, {concept = "a bird", target = "a fish", direct = ["a bird"]}]
retain = [{concept = "an elephant", direct = ["grey elephant"]}]
"""
JUDGE = judges.load("demo", "cpu")
KNOWN = judges.known("demo")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return models.load(checkpoint.resolve("demo"), device="cpu")


def test_near_concepts_are_the_encoders_nearest_without_what_is_erased(model):
    """Fails if an exclusion is dropped: the cat is the nearest to a dog, by far."""
    recipe = recipes.parse(RECIPE)
    found = near.neighbours(recipe, JUDGE, KNOWN, lambda: model, count=3)
    beside_dog = [each.label for each in found if each.concept.concept == "a dog"]
    others = [w for w in map(JUDGE.words, KNOWN["things"]) if w not in ("a dog", "a bird")]
    compared = similarity.compare(model, "a dog", others, *recipe.prompts.templates)
    nearest = [JUDGE.label(word) for word in similarity.nearest(compared)]
    assert nearest[0] == "cat"
    assert beside_dog == [each for each in nearest if each not in ("cat", "tree")][:3]
    asked = near.questions_of(recipe, JUDGE, KNOWN, lambda: model, count=3)
    assert {(q.axis, q.label in ("dog", "bird", "cat")) for q in asked} == {(ADJACENT, False)}
    shared = [q.prompt for q in asked if q.label == "elephant"]
    assert shared in (["grey elephant"], [])  # a retained concept's images are there already


def test_listed_near_concepts_need_no_model_and_prompt_sets_have_none():
    given = '[[near]]\nconcept = "a cat"\ndirect = ["my cat"]\n[[near]]\nconcept = "a rabbit"\n'
    recipe = recipes.parse(RECIPE + given)
    asked = near.questions_of(recipe, JUDGE, KNOWN, lambda: pytest.fail("a model was loaded"))
    assert [q.prompt for q in asked if q.label == "cat"] == ["my cat"]
    assert len([q for q in asked if q.label == "rabbit"]) == 4  # no prompts: those of its kind
    assert {q.beside for q in asked} == {"dog"}
    unknown = recipes.parse(RECIPE + given.replace("a cat", "a zeppelin"))
    with pytest.raises(ForgetError, match="zeppelin"):
        near.questions_of(unknown, JUDGE, KNOWN, lambda: None)
    assert near.questions_of(recipes.parse(RECIPE), JUDGE, KNOWN, lambda: None, count=0) == []


def test_what_else_a_prompt_names_is_of_another_kind():
    asked = [
        Question("a dog", "dog", "a dog and a cat, painted by Claude Monet"),
        Question("a dog", "dog", "a puppy as pop art", "indirect", seed=3),
        Question("a cat", "cat", "a neon cat"),  # not erased
        Question("a dog", "dog", "a dog in neon style"),  # neon is erased too
    ]
    found = named.questions_of(asked, ["dog", "neon"], JUDGE, KNOWN)
    assert [(q.label, q.prompt, q.seed, q.beside) for q in found] == [
        ("monet", "a dog and a cat, painted by Claude Monet", None, "dog"),
        ("pop", "a puppy as pop art", 3, "dog"),
    ]
    assert named.questions_of(asked, ["dog"], JUDGE, None) == []  # a judge of any words
    assert named.questions_of(asked, ["dog"], JUDGE, {"concept": ["dog", "monet"]}) == []


def run(name: str, forgets: set[str], rows: list[tuple[Question, bool]]) -> Run:
    base = SimpleNamespace(id="demo", digest=name)
    answers = [
        Answer(question, 0, Path(f"{question.prompt}.png"), seen, "", float(seen))
        for question, seen in rows
    ]
    return Run(Subject(name, base, frozenset(forgets)), tuple(answers))


ROWS = [
    (Question("dog", "dog", "a dog"), False),
    (Question("cat", "cat", "a cat"), True),
    (Question("fox", "fox", "a fox", axis=ADJACENT, beside="dog"), True),
    (Question("fox", "fox", "fox", axis=ADJACENT, beside="dog"), False),
    (Question("fox", "fox", "fox", axis=ADJACENT, beside="wolf"), False),  # of another model
    (Question("wolf", "wolf", "a wolf", axis=ADJACENT, beside="dog"), False),
    (Question("monet", "monet", "a dog", axis=SELECTIVE, beside="dog"), True),
]


def test_further_axes_have_scores_of_their_own():
    """Fails if near concepts count for retain, or an image for an axis twice."""
    dog, both = run("a", {"dog"}, ROWS), run("b", {"dog", "wolf"}, ROWS)
    scored = score(dog.answers, dog.subject)
    assert (scored.forget.count, scored.retain.count, scored.h.value) == (1, 1, 1.0)
    assert (scored.adjacent.value, scored.adjacent.count) == (0.3333, 3)
    assert (scored.selective.value, scored.selective.count) == (1.0, 1)
    scored = score(both.answers, both.subject)  # a wolf is to be gone, and the fox counts once
    assert (scored.adjacent.value, scored.adjacent.count) == (0.5, 2)
    made = summary(dog, dog).as_dict()
    assert set(made["concepts"]) == {"dog", "cat"} and set(made["near"]) == {"fox", "wolf"}
    assert made["near"]["fox"]["edited"]["adjacent"] == 0.5
    without = [(question, seen) for question, seen in ROWS if not question.axis]
    plain = score(run("a", {"dog"}, without).answers, dog.subject)
    assert plain.adjacent.value is None and plain.selective.value is None
    assert plain.as_dict()["adjacent_ci"] == [0.0, 1.0]


# In the form of the Genμ challenge: a row for each image of each concept, right or wrong.
CHALLENGE = """set,concept,prompt,correct
forget,van gogh,van gogh 1,1
forget,van gogh,van gogh 2,1
forget,van gogh,van gogh 3,1
forget,van gogh,van gogh 4,0
indirect,van gogh,starry night,1
indirect,van gogh,swirls,0
retain,car,car 1,1
retain,car,car 2,1
retain,dog,dog 1,1
retain,dog,dog 2,0
retain,cat,cat 1,1
adjacent,monet,monet 1,1
adjacent,monet,monet 2,0
adjacent,seurat,seurat 1,1
"""


def challenge(rows: str, adversarial: Figure) -> Err:
    subject = Subject("edited", SimpleNamespace(digest=""), frozenset({"van gogh"}))
    answers = []
    for row in csv.DictReader(io.StringIO(rows)):
        kind = "indirect" if row["set"] == "indirect" else "direct"
        near = {"axis": ADJACENT, "beside": "van gogh"} if row["set"] == "adjacent" else {}
        seen = (row["correct"] == "1") != (row["concept"] == "van gogh")
        question = Question(row["concept"], row["concept"], row["prompt"], kind, **near)
        answers.append(Answer(question, 0, Path(row["prompt"]), seen, "", 0.0))
    return score(answers, subject, adversarial).err


def test_err_is_the_harmonic_mean_of_the_challenges_five_accuracies():
    """By hand: 5 / (4/3 + 5/4 + 3/2 + 2/1 + 10/9) = 5 / 7.19444… = 0.69498.

    Fails if forget takes in the indirect prompts (0.6793), or if H stands in for ERR (0.7273).
    """
    resists = Figure(0.9, (0.6, 0.98), 10)
    made = challenge(CHALLENGE, resists)
    assert made.figure.value == 0.695 and made.figure.count == 24 and made.missing == ()
    low, high = made.figure.interval
    assert 0 <= low < 0.6 and 0.75 < high < 1
    alike = challenge(CHALLENGE.replace(",0", ",1"), Figure(1.0, (0.7, 1.0), 10))
    assert alike.figure.value == 1.0 and alike.figure.interval[0] < 0.7  # not certain


@pytest.mark.parametrize("lacking", ["adjacent", "indirect", "retain", "adversarial"])
def test_an_axis_that_was_not_measured_is_null_and_so_is_err(lacking):
    """Fails if a missing axis is left out of the mean, or counts as 1."""
    rows = "".join(
        line for line in CHALLENGE.splitlines(keepends=True) if not line.startswith(lacking)
    )
    resists = NOTHING if lacking == "adversarial" else Figure(1.0, (0.7, 1.0), 10)
    made = challenge(rows, resists)
    assert made.figure.value is None and made.missing == (lacking,)
    assert made.as_dict()["err_missing"] == [lacking] and made.as_dict()["err"] is None


def test_the_weight_change_is_that_of_the_stored_tensors(tmp_path):
    """‖ΔW‖ = 5 and ‖W‖ = 10 over two tensors; the mean of their ratios would be 0.708."""
    before = {"a": torch.full((2, 2), 3.0), "b": torch.full((4,), 4.0)}
    after = {"a": torch.full((2, 2), 3.0) + 2, "b": torch.full((4,), 4.0) + 1.5}
    tensors = []
    for name in before:
        tensors.append(SimpleNamespace(component="unet", parameter=name, third=None, key=name))
        tensors.append(SimpleNamespace(**{**vars(tensors[-1]), "key": "fp16"}))  # another form
    edited = SimpleNamespace(
        manifest=SimpleNamespace(edited=tensors),
        site=lambda t: SimpleNamespace(dtype="F32", shape=tuple(before[t.key].shape)),
        before=lambda t: before[t.key].numpy().tobytes(),
        after=lambda t: after[t.key].numpy().tobytes(),
    )
    change = weight_change(edited)
    assert (change.relative, change.norm, change.tensors) == (0.5, 5.0, 2)
    nothing = SimpleNamespace(manifest=SimpleNamespace(edited=[]))
    assert weight_change(nothing).relative == 0


def test_further_questions_change_neither_choices_nor_an_earlier_run():
    asked = [question for question, _ in ROWS]
    plain = [question for question in asked if not question.axis]
    assert choices(asked)[:2] == choices(plain) == [("dog", "cat")] * 2
    assert choices(asked)[2] == ("dog", "cat", "fox")
    subject = Subject("edited", SimpleNamespace(digest="d"))
    settings = EvaluationSettings(1, 0, 20, None, 8)
    assert _identity([subject], settings, asked) == _identity([subject], settings, plain)
    other = [*plain, Question("fox", "fox", "a fox")]
    assert _identity([subject], settings, other) != _identity([subject], settings, plain)
    assert set(asdict(plain[0])) - {"axis", "beside"} == {
        *("concept", "label", "prompt", "kind", "group", "seed", "guidance", "width", "height"),
        "steps",
    }  # what run.json has counted from the first version on
