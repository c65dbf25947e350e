"""Outcomes: one attack on one concept in one model, read from disk or computed now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import models
from forgetcli.errors import ForgetError
from forgetcli.generation.generate import default_guidance
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer
from forgetcli.robustness import attacks as attacks_
from forgetcli.robustness import records
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.budget import Budget
from forgetcli.robustness.goals import Goal, References
from forgetcli.robustness.results import UNEDITED, JudgedAttempt, Outcome
from forgetcli.robustness.sampling import Sampling, sample_images

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel

    from forgetcli.checkpoint.base import Base
    from forgetcli.evaluation.judges import Judge, Verdict
    from forgetcli.models.base import LoadedModel

REFERENCES = 25  # images of the concept that an attack may learn from
REFERENCE_SEED = 100_000  # far from the seeds of attempts
# At most this many batches of `REFERENCES` images are generated in search of images in which the
# judge sees the concept.
REFERENCE_BATCHES = 4


@dataclass(frozen=True)
class Settings:
    """The settings of image generation. They are recorded with the result."""

    images: int
    seed: int
    steps: int
    guidance: float | None
    batch: int


@dataclass(frozen=True)
class Outcomes:
    """The state that all outcomes share.

    Models are loaded and references generated when an outcome first needs them. A run that only
    collects outcomes from disk loads no model.

    Attributes:
        bases: the model of each role; `UNEDITED` is always among them.
        output: folder with a folder for each role.
    """

    bases: Mapping[str, Base]
    goals: Sequence[Goal]
    options: Mapping[str, BaseModel]
    judge: Judge
    settings: Settings
    output: Path
    device: str | None
    observer: Observer

    @cached_property
    def _loaded(self) -> dict[str, LoadedModel]:
        return {}

    def model(self, role: str) -> LoadedModel:
        """The model of a role. The unedited model and one other are in memory at a time."""
        if role not in self._loaded:
            for other in self._loaded.keys() - {UNEDITED}:
                del self._loaded[other]
            self._loaded[role] = models.load(
                self.bases[role], device=self.device, observer=self.observer
            )
        return self._loaded[role]

    @cached_property
    def sampling(self) -> Sampling:
        guidance = self.settings.guidance
        if guidance is None:
            guidance = default_guidance(self.model(UNEDITED))
        return Sampling(self.settings.steps, guidance, self.settings.batch)

    @cached_property
    def references(self) -> dict[tuple[str, tuple[str, ...]], References]:
        """The references by label and prompts, generated when the first attack needs them."""
        return {}

    def supported_attacks(self, *, named: bool) -> list[str]:
        """The attacks that can run on models of this family. Each of the others gives a note.

        Args:
            named: whether the user named the attacks.
        Raises:
            ForgetError: attack.unsupported: an attack that the user named cannot run.
        """
        names = []
        for name in self.options:
            refuse = getattr(attacks_.get(name), "refuse", None)
            try:
                if refuse is not None:
                    refuse(self.model(UNEDITED))
            except ForgetError as reason:
                if named:
                    raise
                self.observer.note(f"not run: {reason.message}")
            else:
                names.append(name)
        return names

    def identity(self) -> dict[str, Any]:
        """The content of ``run.json``. It leaves attacks and concepts out, so that later runs can
        add some to the folder.
        """
        return {
            "models": {role: self.bases[role].digest for role in self.bases},
            **asdict(self.settings),
        }

    def outcome(self, name: str, goal: Goal, role: str) -> Outcome:
        """The outcome of one attack on one concept in one model, read from disk or computed now."""
        folder = self.output / role
        stem = records.stem(name, goal.label)
        options = self.options[name].model_dump(mode="json")
        identity = records.digest(
            {
                "attack": name,
                "options": options,
                "goal": asdict(goal),
                "model": self.bases[role].digest,
                "unedited": self.bases[UNEDITED].digest,
                "judge": self.judge.identity(),
                **asdict(self.settings),
            }
        )
        recorded = records.read(folder, stem, identity)
        if recorded is None:
            outcome = self._compute(name, goal, role, stem, options)
            records.write(folder, stem, identity, outcome)
            return outcome
        attempts, budget, replay = recorded
        return Outcome(
            attack=name,
            concept=goal.concept,
            label=goal.label,
            role=role,
            attempts=tuple(attempts),
            counted=(True,) * len(attempts),
            budget=budget,
            options=options,
            replay=replay,
        )

    def _compute(
        self, name: str, goal: Goal, role: str, stem: str, options: Mapping[str, Any]
    ) -> Outcome:
        """Run the attack, and write its images and conditionings."""
        self.observer.stage(f"{name} on {goal.label}, {role}")
        budget = Budget()
        model, unedited = self.model(role), self.model(UNEDITED)
        case = Case(
            model=model,
            unedited=unedited,
            goal=goal,
            references=lambda prompts=goal.prompts: self._references(goal, prompts),
            sampling=self.sampling,
            images=self.settings.images,
            seed=self.settings.seed,
            see=lambda images: self._verdicts(goal, images),
            budget=budget,
            observer=self.observer,
        )
        with budget.metering([model, unedited]):
            attempts = attacks_.get(name).run(case, self.options[name])
        folder = self.output / role
        judged = tuple(self._judged(goal, folder, stem, attempts))
        conditionings = [
            (attempt.found, attempt.seed) for attempt in attempts if attempt.found is not None
        ]
        replay = folder / f"{stem}.safetensors" if conditionings else None
        if replay is not None:
            records.write_conditionings(
                replay,
                conditionings,
                attack=name,
                concept=goal.concept,
                label=goal.label,
                rivals=goal.rivals,
            )
        return Outcome(
            attack=name,
            concept=goal.concept,
            label=goal.label,
            role=role,
            attempts=judged,
            counted=(True,) * len(judged),
            budget=budget.as_dict(),
            options=options,
            replay=replay,
        )

    def _verdicts(self, goal: Goal, images: Sequence[Image]) -> list[Verdict]:
        return self.judge.see(images, [goal.label] * len(images), [goal.rivals] * len(images))

    def _judged(
        self, goal: Goal, folder: Path, stem: str, attempts: Sequence[Attempt]
    ) -> Iterator[JudgedAttempt]:
        """Judge the attempts. For each one, write the image with the highest score."""
        for number, attempt in enumerate(attempts):
            verdicts = self._verdicts(goal, attempt.images)
            best = max(range(len(verdicts)), key=lambda k: (verdicts[k].seen, verdicts[k].score))
            path = folder / f"{stem}-{number:03d}.png"
            origin = {"attack": stem, "prompt": attempt.prompt, "seed": attempt.seed}
            records.write_image(path, attempt.images[best], origin)
            yield JudgedAttempt(
                prompt=attempt.prompt,
                variant=attempt.variant,
                seed=attempt.seed,
                path=path,
                seen=verdicts[best].seen,
                judged=verdicts[best].judged,
                score=verdicts[best].score,
                candidates=len(verdicts),
            )

    def _references(self, goal: Goal, asked: tuple[str, ...]) -> References:
        """`REFERENCES` images of the concept from the unedited model, in which the judge sees it.

        If the judge sees the concept in too few images, images without it fill the rest. References
        are not stored on disk, because they take only a few seconds.

        Args:
            asked: prompts that name the concept.
        """
        key = (goal.label, asked)
        if key in self.references:
            return self.references[key]
        model = self.model(UNEDITED)
        with_concept: list[tuple[str, int, Any, Image]] = []
        without: list[tuple[str, int, Any, Image]] = []
        for start in range(0, REFERENCE_BATCHES * REFERENCES, REFERENCES):
            numbers = range(start, start + REFERENCES)
            prompts = [asked[k % len(asked)] for k in numbers]
            seeds = [REFERENCE_SEED + k for k in numbers]
            context = model.encode(tokenise(model.tokenizer, prompts).ids)
            images, latents = sample_images(model, context, seeds, self.sampling)
            verdicts = self._verdicts(goal, images)
            for row, verdict in zip(zip(prompts, seeds, latents, images), verdicts):
                if verdict.seen:
                    with_concept.append(row)
                else:
                    without.append(row)
            if len(with_concept) >= REFERENCES:
                break
        rows = (with_concept + without)[:REFERENCES]
        import torch

        self.references[key] = References(
            prompts=tuple(row[0] for row in rows),
            seeds=tuple(row[1] for row in rows),
            latents=torch.stack([row[2] for row in rows]),
            images=tuple(row[3] for row in rows),
        )
        return self.references[key]
