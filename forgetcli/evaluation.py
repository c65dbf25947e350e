"""How much was forgotten and how much was kept, beside the unedited model, through one judge at equal seeds."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import judges
from forgetcli.errors import ForgetError
from forgetcli.generation import draw
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.statistics import harmonic, harmonic_interval, wilson

if TYPE_CHECKING:
    from forgetcli.recipe import Recipe


@dataclass(frozen=True)
class Question:
    """One prompt to draw and judge. `edited`: the concept should be gone; otherwise it should be there."""

    concept: str
    label: str
    prompt: str
    direct: bool
    edited: bool


@dataclass(frozen=True)
class Answer:
    """One picture of a question, judged."""

    question: Question
    seed: int
    path: Path
    seen: bool
    judged: str
    score: float

    @property
    def good(self) -> bool:
        return self.seen != self.question.edited


@dataclass(frozen=True)
class Evaluation:
    judge: Mapping[str, object]
    images: int
    baseline: tuple[Answer, ...]
    edited: tuple[Answer, ...]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
        """The stable keys of ``eval --json``."""
        concepts = list(dict.fromkeys(a.question.concept for a in self.edited))
        return {"judge": dict(self.judge), "n_images": self.images, "baseline": scores(self.baseline), "edited": scores(self.edited),
                "concepts": {name: {side: by_concept([a for a in answers if a.question.concept == name])
                                    for side, answers in (("baseline", self.baseline), ("edited", self.edited))} for name in concepts},
                "seconds": dict(self.seconds)}


def evaluate(folder: Path | str = "edited", *, recipe: Recipe | None = None, images: int = 1, seed: int = 0, steps: int = 20,
             judge: str = "demo", output: Path | str = "eval", device: str | None = None,
             observer: Observer | None = None) -> Evaluation:
    """Draw the recipe's evaluation prompts with the edited and with the unedited model, and judge both.

    Args:
        folder: an edited checkpoint; its manifest names the base model.
        recipe: whose prompts are used; default: the recipe that the checkpoint was made with.
        images: pictures for each prompt, at seeds `seed`, `seed + 1`, …
        output: where the pictures are kept; a run that was cut short goes on there.
    Raises:
        ForgetError: not an edited folder, a recipe without evaluation prompts, an unknown judge or concept.
    """
    from forgetcli import checkpoint, provenance, recipe as recipes

    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    manifest = provenance.load(Path(folder))
    recipe = recipe or recipes.load(manifest.recipe_path)
    judge_ = judges.load(judge, device)
    questions = questions_of(recipe, judge_.label)
    wanted = [(q.prompt, seed + k) for q in questions for k in range(images)]
    answers = {}
    for side, name in (("baseline", manifest.base), ("edited", Path(folder))):
        with watch.stage(side):
            paths, _ = draw(checkpoint.resolve(name), wanted, output / side, steps=steps, guidance=None, device=device,
                            batch=8, observer=observer)
            answers[side] = look(judge_, paths, wanted, [q for q in questions for _ in range(images)])
    observer.done()
    return Evaluation(judge_.identity(), 2 * len(wanted), answers["baseline"], answers["edited"], watch.report())


def questions_of(recipe: Recipe, find: Callable[[str], str | None]) -> list[Question]:
    """Every evaluation prompt of a recipe, with the judge's label for its concept.

    Raises:
        ForgetError: there is none, or the judge knows no such concept.
    """
    questions = []
    for edited, concepts in ((True, recipe.concepts), (False, recipe.retain)):
        for concept in concepts:
            label = concept.label or find(concept.concept)
            if label is None:
                raise ForgetError("eval.no-label", f"the judge has no name for '{concept.concept}'",
                                  "give the concept a label that the judge knows")
            for direct, prompts in ((True, concept.direct), (False, concept.indirect)):
                questions += [Question(concept.concept, label, prompt, direct, edited) for prompt in prompts]
    for edited, what in ((True, "[[concepts]]"), (False, "[[retain]]")):
        if not any(q.edited == edited for q in questions):
            raise ForgetError("eval.no-prompts", f"the recipe has no evaluation prompts in {what}",
                              f"add direct and indirect prompts to {what}")
    return questions


def look(judge, paths: Sequence[Path], wanted: Sequence[tuple[str, int]], questions: Sequence[Question]) -> tuple[Answer, ...]:
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in paths]
    sights = judge.see(pictures, [q.label for q in questions])
    return tuple(Answer(q, seed, path, s.seen, s.judged, s.score)
                 for q, (_, seed), path, s in zip(questions, wanted, paths, sights))


def scores(answers: Sequence[Answer]) -> dict:
    """forget (all, direct, indirect), retain and H, each with its 95 % interval as ``*_ci``."""
    gone, kept = [a for a in answers if a.question.edited], [a for a in answers if not a.question.edited]
    result = {**share("forget", gone), **share("forget_direct", [a for a in gone if a.question.direct]),
              **share("forget_indirect", [a for a in gone if not a.question.direct]), **share("retain", kept)}
    result["h"] = round(harmonic(result["forget"], result["retain"]), 4)
    result["h_ci"] = [round(x, 4) for x in harmonic_interval(by_prompt(gone), by_prompt(kept))]
    return result


def by_concept(answers: Sequence[Answer]) -> dict:
    """forget or retain of one concept, whichever it is there for, also by kind of prompt."""
    name = "forget" if answers[0].question.edited else "retain"
    return {**share(name, answers), **share(f"{name}_direct", [a for a in answers if a.question.direct]),
            **share(f"{name}_indirect", [a for a in answers if not a.question.direct])}


def share(name: str, answers: Sequence[Answer]) -> dict:
    """The share of good answers; None where there are none."""
    good = sum(a.good for a in answers)
    return {name: round(good / len(answers), 4) if answers else None,
            f"{name}_ci": [round(x, 4) for x in wilson(good, len(answers))], f"{name}_n": len(answers)}


def by_prompt(answers: Sequence[Answer]) -> list[float]:
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        groups.setdefault(answer.question.prompt, []).append(answer.good)
    return [sum(g) / len(g) for g in groups.values()]
