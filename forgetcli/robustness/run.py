"""`attack`: the whole run on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import distributed, models
from forgetcli import recipe as recipes
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.run_folder import claim
from forgetcli.generation.draw import default_guidance
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.robustness import attacks as attacks_
from forgetcli.robustness import goals as goals_
from forgetcli.robustness import records
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.budget import Budget
from forgetcli.robustness.goals import Goal, References
from forgetcli.robustness.results import (
    EDITED,
    FLOOR,
    UNEDITED,
    Attacked,
    Outcome,
    Robustness,
    Tried,
)
from forgetcli.robustness.sampling import Sampling, draw

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel

    from forgetcli.checkpoint.base import Base
    from forgetcli.evaluation.judges import Judge, Verdict
    from forgetcli.models.base import LoadedModel

REFERENCES = 25  # images of the concept that an attack may learn from
REFERENCE_SEED = 100_000  # far from the seeds of attempts
REFERENCE_TRIES = 4  # drawn for each that is wanted, before those that the judge sees are enough


@dataclass(frozen=True)
class Settings:
    """How concepts are drawn and judged. Recorded with the result."""

    images: int
    seed: int
    steps: int
    guidance: float | None
    batch: int


def attack(
    folder: Path | str = "edited",
    *,
    attacks: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
    published: bool = False,
    concepts: Sequence[str] = (),
    control: bool = True,
    floor: str | Path | None = None,
    judge: str = "demo",
    judge_options: Mapping[str, object] | None = None,
    images: int = 12,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    batch: int = 12,
    output: Path | str = "attack",
    device: str | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> Robustness:
    """Try to bring back what an edited model was made to forget.

    Args:
        folder: the edited model.
        attacks: names. Default: every attack that is no training (all but ``relearn``) and that
            the model's family can run.
        options: attack → its settings.
        published: begin with the values of each attack's paper instead of those that fit a CPU.
        concepts: labels or words of the concepts; default: all that the model forgot.
        control: attack the unedited model too. Without it, no attack gives a verdict.
        floor: a model that never learned the concepts; attacked too.
        judge, judge_options, steps, guidance, device, force: see `forgetcli.evaluate`.
        images: attempts at drawing the concept with what an attack found.
        seed: of the first attempt.
        output: folder for images and results. An interrupted run continues there.
        batch: images drawn together.
        observer: told about progress.
    Raises:
        ForgetError: not an edited folder, an unknown attack, setting or concept, an attack that the
            model's family cannot run, or `output` contains another run.
    """
    settings = Settings(images, seed, steps, guidance, batch)
    names = list(dict.fromkeys(attacks)) if attacks is not None else attacks_.defaults()
    chosen = {
        name: attacks_.options(name, (options or {}).get(name, {}), published=published)
        for name in names
    }
    manifest = EditedModel(Path(folder)).manifest
    edited = checkpoint.resolve(folder)
    bases = {EDITED: edited, UNEDITED: manifest.resolve_base()}
    if floor is not None:
        bases[FLOOR] = checkpoint.resolve(str(floor))
    processes = distributed.current()
    device = device or distributed.local_device()
    loaded_judge = judges.load(judge, device, judge_options)
    goals = goals_.of_recipes([recipes.load(manifest.recipe_path)], loaded_judge, concepts)
    run = _Run(
        bases=bases,
        goals=goals,
        options=chosen,
        judge=loaded_judge,
        settings=settings,
        output=Path(output),
        device=device,
        observer=observer or Silent(),
    )
    names = run.possible(asked=attacks is not None)
    if processes.main:
        claim(run.output, run.identity(), force, also=("report.html", "results.json"))
    processes.wait()
    watch = Stopwatch()
    roles = [role for role in (EDITED, UNEDITED, FLOOR) if role in bases]
    if not control:
        roles.remove(UNEDITED)
    jobs = [(name, goal, role) for name in names for goal in goals for role in roles]
    for block in processes.blocks(jobs, 1):
        for name, goal, role in block:
            with watch.stage(name):
                run.outcome(name, goal, role)
    processes.wait()
    run.observer.done()
    attacked = [
        _attacked(name, {role: run.outcome(name, goal, role) for role in roles})
        for name in names
        for goal in goals
    ]
    return Robustness(
        folder=run.output,
        model={"name": Path(folder).resolve().name, "digest": edited.digest},
        base={"id": bases[UNEDITED].id, "digest": bases[UNEDITED].digest},
        attacked=tuple(attacked),
        judge=loaded_judge.identity(),
        settings={**asdict(settings), "guidance": run.sampling.guidance, "published": published},
        seconds=watch.report(),
    )


def _attacked(name: str, outcomes: Mapping[str, Outcome]) -> Attacked:
    control, module = outcomes.get(UNEDITED), attacks_.get(name)
    if control is not None and getattr(module, "PAIRED", False):
        counted = tuple(attempt.seen for attempt in control.tried)
        outcomes = {role: replace(each, counted=counted) for role, each in outcomes.items()}
    return Attacked(
        edited=outcomes[EDITED],
        control=outcomes.get(UNEDITED),
        floor=outcomes.get(FLOOR),
        bound=getattr(module, "BOUND", False),
    )


@dataclass(frozen=True)
class _Run:
    """What all outcomes share. Models and references are made when the first outcome needs them: a
    run that only gathers what is already on disk loads no model.
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
    def models(self) -> dict[str, LoadedModel]:
        return {
            role: models.load(base, device=self.device, observer=self.observer)
            for role, base in self.bases.items()
        }

    @cached_property
    def sampling(self) -> Sampling:
        guidance = self.settings.guidance
        if guidance is None:
            guidance = default_guidance(self.models[EDITED])
        return Sampling(self.settings.steps, guidance, self.settings.batch)

    @cached_property
    def references(self) -> dict[str, References]:
        """By label; drawn when the first attack on a concept asks for them."""
        return {}

    def possible(self, *, asked: bool) -> list[str]:
        """The attacks that the edited model can be attacked with; a note about each other one.

        Args:
            asked: whether the user named the attacks.
        Raises:
            ForgetError: `asked`, and one of them is impossible (``attack.unsupported``).
        """
        names = []
        for name in self.options:
            refuse = getattr(attacks_.get(name), "refuse", None)
            try:
                if refuse is not None:
                    refuse(self.models[EDITED])
            except ForgetError as reason:
                if asked:
                    raise
                self.observer.note(f"not run: {reason.message}")
            else:
                names.append(name)
        return names

    def identity(self) -> dict[str, Any]:
        """For ``run.json``: of the folder, which other attacks and concepts may be added to."""
        return {
            "models": {role: self.bases[role].digest for role in self.bases},
            **asdict(self.settings),
        }

    def outcome(self, name: str, goal: Goal, role: str) -> Outcome:
        """One attack on one concept in one model: from disk, or made now."""
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
        known = records.read(folder, stem, identity)
        if known is None:
            outcome = self._made(name, goal, role, stem, options)
            records.write(folder, stem, identity, outcome)
            return outcome
        tried, budget, replay = known
        return Outcome(
            attack=name,
            concept=goal.concept,
            label=goal.label,
            role=role,
            tried=tuple(tried),
            counted=(True,) * len(tried),
            budget=budget,
            options=options,
            replay=replay,
        )

    def _made(
        self, name: str, goal: Goal, role: str, stem: str, options: Mapping[str, Any]
    ) -> Outcome:
        self.observer.stage(f"{name} on {goal.label}, {role}")
        budget = Budget()
        case = Case(
            model=self.models[role],
            unedited=self.models[UNEDITED],
            goal=goal,
            references=lambda: self._references(goal),
            sampling=self.sampling,
            images=self.settings.images,
            seed=self.settings.seed,
            see=lambda given: self._see(goal, given),
            budget=budget,
            observer=self.observer,
        )
        with budget.metering([self.models[role], self.models[UNEDITED]]):
            attempts = attacks_.get(name).run(case, self.options[name])
        folder = self.output / role
        tried = tuple(self._judged(goal, folder, stem, attempts))
        found = [(a.found, a.seed) for a in attempts if a.found is not None]
        replay = folder / f"{stem}.safetensors" if found else None
        if replay is not None:
            records.write_found(
                replay,
                found,
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
            tried=tried,
            counted=(True,) * len(tried),
            budget=budget.as_dict(),
            options=options,
            replay=replay,
        )

    def _see(self, goal: Goal, images: Sequence[Image]) -> list[Verdict]:
        return self.judge.see(images, [goal.label] * len(images), [goal.rivals] * len(images))

    def _judged(
        self, goal: Goal, folder: Path, stem: str, attempts: Sequence[Attempt]
    ) -> Iterator[Tried]:
        """The attempts with their verdicts; of each the image in which the concept is surest is
        written.
        """
        for number, attempt in enumerate(attempts):
            verdicts = self._see(goal, attempt.images)
            best = max(range(len(verdicts)), key=lambda k: (verdicts[k].seen, verdicts[k].score))
            path = folder / f"{stem}-{number:03d}.png"
            origin = {"attack": stem, "prompt": attempt.prompt, "seed": attempt.seed}
            records.write_image(path, attempt.images[best], origin)
            yield Tried(
                prompt=attempt.prompt,
                variant=attempt.variant,
                seed=attempt.seed,
                path=path,
                seen=verdicts[best].seen,
                judged=verdicts[best].judged,
                score=verdicts[best].score,
                candidates=len(verdicts),
            )

    def _references(self, goal: Goal) -> References:
        """Images of the concept by the unedited model, in which the judge sees it; in the memory of
        this process, as they take a few seconds.

        If it sees too few, the rest are what was drawn.
        """
        if goal.label in self.references:
            return self.references[goal.label]
        model = self.models[UNEDITED]
        kept: list[tuple[str, int, Any, Image]] = []
        spare: list[tuple[str, int, Any, Image]] = []
        for start in range(0, REFERENCE_TRIES * REFERENCES, REFERENCES):
            numbers = range(start, start + REFERENCES)
            prompts = [goal.prompts[k % len(goal.prompts)] for k in numbers]
            seeds = [REFERENCE_SEED + k for k in numbers]
            context = model.encode(tokenise(model.tokenizer, prompts).ids)
            images, latents = draw(model, context, seeds, self.sampling)
            for row, verdict in zip(zip(prompts, seeds, latents, images), self._see(goal, images)):
                (kept if verdict.seen else spare).append(row)
            if len(kept) >= REFERENCES:
                break
        rows = (kept + spare)[:REFERENCES]
        import torch

        self.references[goal.label] = References(
            prompts=tuple(row[0] for row in rows),
            seeds=tuple(row[1] for row in rows),
            latents=torch.stack([row[2] for row in rows]),
            images=tuple(row[3] for row in rows),
        )
        return self.references[goal.label]
