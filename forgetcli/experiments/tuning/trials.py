"""Trials: an edit with the suggested values, and the scores of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.base import Base
from forgetcli.errors import EditError, counted
from forgetcli.evaluation import Answer, Question, Subject, run_folder
from forgetcli.evaluation.run import UNEDITED, answered
from forgetcli.evaluation.scores import score
from forgetcli.evaluation.subjects import apart
from forgetcli.experiments.tuning.recipe_file import RecipeSource, trial_overrides
from forgetcli.experiments.tuning.space import SearchSpace
from forgetcli.generation.image_cache import ImageCache
from forgetcli.generation.images import ImageRequest
from forgetcli.pipeline import apply
from forgetcli.process.distributed import Processes
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.recipe import Recipe

TRIALS = "trials"  # the parent of the trials' folders
EARLY_STRIDE = 3  # one question in three is scored first, to decide whether to prune the trial
PRUNING_CODES = ("edit.no-effect", "edit.wrecked")  # errors of edits that succeed but are useless


@dataclass(frozen=True)
class ImageSettings:
    """The settings with which the images of every trial are generated.

    Attributes:
        images: the number of images for each prompt.
        seed: the seed of a prompt's first image. The other images have the following seeds.
        steps: the number of sampling steps.
        device: the device; None: the fastest one.
        batch: images generated at a time.
    """

    images: int
    seed: int
    steps: int
    device: str | None
    batch: int


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a search.

    Attributes:
        source: the recipe's source. Each trial loads it with other values.
        recipe: the recipe with its own values.
        base: the base model.
        judge: the judge.
        questions: one question for each image.
        settings: the settings for generating images.
        output: the search's folder.
        observer: receives progress and notes.
        processes: those that share out the images. The first one runs the trials, and the others
            `help`.
    """

    source: RecipeSource
    recipe: Recipe
    base: Base
    judge: Any
    questions: Sequence[Question]
    settings: ImageSettings
    output: Path
    observer: Observer
    processes: Processes

    def score_unedited(self, watch: Stopwatch) -> dict:
        """The scores of the unedited model."""
        answers = self._answers(
            Subject(UNEDITED, self.base),
            range(len(self.questions)),
            watch,
            ImageCache(self.base, self.settings.device),
        )
        return score(in_order(answers), self._subject(self.base)).as_dict()

    def run(self, trial: optuna.Trial, space: SearchSpace) -> float:
        """Run a trial and return its H. The values and the scores are stored in the study.

        Raises:
            EditError: the edit fails with these values.
            optuna.TrialPruned: the edit has no effect or destroys the model, or the scores of its
                first images are too low.
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
            scores = self._score(trial, folder)
        finally:
            # A checkpoint for each trial would fill the disk. It can be made again from the values.
            with suppress(OSError):
                run_folder.discard(folder)
        trial.set_user_attr("scores", scores)
        return scores["h"] or 0.0

    def help(self) -> None:
        """Generate and judge this process's share of every trial, until the first process ends the
        search.
        """
        while (share := self.processes.from_first(None)) is not None:
            self._trial_answers(*share)

    def dismiss(self) -> None:
        """Let the processes that help end."""
        self.processes.from_first(None)

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
        """The scores of the edited model in `folder`.

        The first images are judged before the rest is generated, so that a bad trial can be pruned
        early.
        """
        subject = self._subject(checkpoint.resolve(folder / "edited"))
        first = early_questions(self.questions)
        answers = self._shared_answers(folder, first)
        early = score(in_order(answers), subject).h.value or 0.0
        trial.report(early, 1)
        if trial.should_prune():
            raise optuna.TrialPruned(
                f"H {early:.3f} after {len(first)} of {counted(len(self.questions), 'image')}"
            )
        rest = [i for i in range(len(self.questions)) if i not in first]
        answers |= self._shared_answers(folder, rest)
        return score(in_order(answers), subject).as_dict()

    def _subject(self, base: Base) -> Subject:
        return Subject(
            name="trial",
            base=base,
            # Concepts that the judge has no label for are in no question.
            forgets=frozenset(self.judge.label(c.concept, c.label) for c in self.recipe.concepts)
            - {None},
            edit_prompts=frozenset(prompt for prompt, _ in self.recipe.edit_pairs()),
            apart=apart(self.recipe, self.judge, self.questions, Silent()),
        )

    def _requests(self) -> list[ImageRequest]:
        settings = self.settings
        return [
            ImageRequest(question.prompt, settings.seed + k % settings.images, settings.steps)
            for k, question in enumerate(self.questions)
        ]

    def _shared_answers(self, folder: Path, indices: Sequence[int]) -> dict[int, Answer]:
        """`_trial_answers`, to which all processes contribute."""
        return self._trial_answers(*self.processes.from_first((folder, indices)))

    def _trial_answers(self, folder: Path, indices: Sequence[int]) -> dict[int, Answer]:
        """Answers from the edited model in a trial's folder."""
        images = (folder / "images").relative_to(self.output).as_posix()
        subject = Subject(images, checkpoint.resolve(folder / "edited"))
        return self._answers(subject, indices, Stopwatch())

    def _answers(
        self,
        subject: Subject,
        indices: Sequence[int],
        watch: Stopwatch,
        cache: ImageCache | None = None,
    ) -> dict[int, Answer]:
        """Answers to the questions with these indices, by index."""
        requests = self._requests()
        run = answered(
            subject,
            [self.questions[i] for i in indices],
            [requests[i] for i in indices],
            self.judge,
            self.output,
            device=self.settings.device,
            batch=self.settings.batch,
            observer=self.observer,
            watch=watch,
            processes=self.processes,
            cache=cache,
        )
        return dict(zip(indices, run.answers))


def in_order(answers: Mapping[int, Answer]) -> tuple[Answer, ...]:
    """Answers in the order of their questions."""
    return tuple(answers[i] for i in sorted(answers))


def early_questions(questions: Sequence[Question]) -> list[int]:
    """Indices of the questions that are scored first: some of each concept and kind of prompt."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault((question.label, question.kind), []).append(i)
    return sorted({i for group in groups.values() for i in group[::EARLY_STRIDE]})
