"""One trial: an edit with the suggested values, and the scores of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.base import Base
from forgetcli.distributed import Processes
from forgetcli.errors import EditError, counted
from forgetcli.evaluation import Answer, Question, Subject, run_folder
from forgetcli.evaluation.run import UNEDITED, answered
from forgetcli.evaluation.scores import score
from forgetcli.evaluation.verdicts import look
from forgetcli.experiments.tuning.recipe_file import RecipeSource, trial_overrides
from forgetcli.experiments.tuning.space import SearchSpace
from forgetcli.generation.generate import generate_images
from forgetcli.generation.images import ImageRequest
from forgetcli.pipeline import apply
from forgetcli.progress import Observer, Stopwatch
from forgetcli.recipe import Recipe

TRIALS = "trials"  # the folder with a folder for each trial
EARLY_STRIDE = 3  # one question in three is scored first, to decide whether to prune the trial
PRUNING_CODES = ("edit.no-effect", "edit.wrecked")  # edits that were made, but are of no use


@dataclass(frozen=True)
class ImageSettings:
    """How the images of every trial are generated.

    Attributes:
        images: images of each prompt.
        seed: of the first image of a prompt; the others have the next seeds.
        steps: sampler steps.
        device: None: the fastest one.
        batch: images generated at a time.
    """

    images: int
    seed: int
    steps: int
    device: str | None
    batch: int


@dataclass(frozen=True)
class TrialRunner:
    """What all trials of a search share.

    Attributes:
        source: the recipe, loaded again for each trial.
        recipe: the recipe with its own values.
        base: the base model.
        questions: one for each image.
        output: the search's folder.
    """

    source: RecipeSource
    recipe: Recipe
    base: Base
    judge: Any
    questions: Sequence[Question]
    settings: ImageSettings
    output: Path
    observer: Observer

    def score_unedited(self, watch: Stopwatch) -> dict:
        """Scores of the unedited model."""
        run = answered(
            Subject(UNEDITED, self.base),
            self.questions,
            self._requests(),
            self.judge,
            self.output,
            device=self.settings.device,
            batch=self.settings.batch,
            observer=self.observer,
            watch=watch,
            processes=Processes(),
        )
        return score(run.answers, self._subject(self.base)).as_dict()

    def run(self, trial: optuna.Trial, space: SearchSpace) -> float:
        """H of the trial. The values and the scores are stored in the study.

        Raises:
            EditError: the edit cannot be made with these values.
            optuna.TrialPruned: the edit has no effect or wrecks the model, or its first images
                score too low.
        """
        values = space.suggest(trial)
        # JSON has no tuples.
        stored = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        trial.set_user_attr("parameters", stored)
        folder = self.output / TRIALS / f"{trial.number:04d}"
        run_folder.fresh(folder)
        try:
            overrides = trial_overrides(self.recipe, self.source.method, values)
            self._edit(self.source.load(overrides), folder / "edited")
            found = self._score(trial, folder)
        finally:
            # One checkpoint a trial would fill the disk. The values are enough to make it again.
            with suppress(OSError):
                run_folder.discard(folder)
        trial.set_user_attr("scores", found)
        return found["h"] or 0.0

    def _edit(self, recipe: Recipe, folder: Path) -> None:
        try:
            apply.apply(
                recipe,
                model=self.base.reference,
                config=self.base.config,
                output=folder,
                device=self.settings.device,
                force=True,
                observer=self.observer,
            )
        except EditError as fault:
            if fault.code in PRUNING_CODES:
                raise optuna.TrialPruned(fault.message) from fault
            raise

    def _score(self, trial: optuna.Trial, folder: Path) -> dict:
        """Scores of the edited model in `folder`.

        The first images are judged before the rest is generated.
        """
        subject = self._subject(checkpoint.resolve(folder / "edited"))
        first = early_questions(self.questions)
        images = self._generate(subject, first, folder / "first")
        early = score(self._judged(images), subject).h.value or 0.0
        trial.report(early, 1)
        if trial.should_prune():
            raise optuna.TrialPruned(
                f"H {early:.3f} after {len(first)} of {counted(len(self.questions), 'image')}"
            )
        rest = [i for i in range(len(self.questions)) if i not in first]
        images |= self._generate(subject, rest, folder / "rest")
        return score(self._judged(images), subject).as_dict()

    def _subject(self, base: Base) -> Subject:
        return Subject(
            name="trial",
            base=base,
            # No question asks for a concept without a label.
            forgets=frozenset(self.judge.label(c.concept, c.label) for c in self.recipe.concepts)
            - {None},
            edit_prompts=frozenset(prompt for prompt, _ in self.recipe.edit_pairs()),
        )

    def _requests(self) -> list[ImageRequest]:
        settings = self.settings
        return [
            ImageRequest(question.prompt, settings.seed + k % settings.images, settings.steps)
            for k, question in enumerate(self.questions)
        ]

    def _generate(self, subject: Subject, indices: Sequence[int], folder: Path) -> dict[int, Path]:
        """Image files by the indices of their questions."""
        requests = self._requests()
        paths, _ = generate_images(
            subject.base,
            [requests[i] for i in indices],
            folder,
            device=self.settings.device,
            batch=self.settings.batch,
            observer=self.observer,
        )
        return dict(zip(indices, paths))

    def _judged(self, images: Mapping[int, Path]) -> tuple[Answer, ...]:
        """The judge's verdicts on images given by the indices of their questions."""
        order = sorted(images)
        requests = self._requests()
        verdicts = look(
            self.judge,
            [images[i] for i in order],
            [self.questions[i] for i in order],
            self.output / "verdicts",
            processes=Processes(),
            observer=self.observer,
        )
        return tuple(
            Answer(
                question=self.questions[i],
                seed=requests[i].seed,
                path=images[i],
                seen=verdict.seen,
                judged=verdict.judged,
                score=verdict.score,
            )
            for i, verdict in zip(order, verdicts)
        )


def early_questions(questions: Sequence[Question]) -> list[int]:
    """Indices of the questions that are scored first: a part of each concept and kind of prompt."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault((question.label, question.kind), []).append(i)
    return sorted({i for group in groups.values() for i in group[::EARLY_STRIDE]})
