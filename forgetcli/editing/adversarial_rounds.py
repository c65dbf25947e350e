"""Adversarial rounds of the cross-attention edit: concept inversion attacks the edited model, and
the contexts that it finds are requests of the next solution.

Per round and concept, a word is learned through the edited model from images that the unedited
model generated of the concept. If it recovers the concept, the word's contexts are mapped to the
target's as well, with the largest weight at which the preserve prompts' predictions stay within a
bound: an adversarial context is in part made of directions that other concepts need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.editing.alignment import pieces, subject_ends
from forgetcli.editing.check import predictions, spread
from forgetcli.editing.context_columns import PairColumns, contexts, words_of
from forgetcli.editing.context_map import ContextProblem
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.inversion import (
    PROMPTS,
    LearnedToken,
    concept_latents,
    invert_token,
    prediction_target,
    token_ids,
)
from forgetcli.editing.task import Task
from forgetcli.linalg import RidgeMap
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Observer

PROBES = 64  # noisy images on which a learned word is compared with the concept's own
DRIFT_PROMPTS = 32
# An attack that recovers less of the denoising loss than this has failed. Measured on the embedded
# model: learned words that recovered up to 0.1 gave the concept in at most one of eight images.
FAILED = 0.2
# Weights of a round's requests that are tried; the recipe's own prompts have 1.
WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01)

Weights = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Attack:
    """What one inversion of the rounds achieved.

    Attributes:
        round: its number, from 1.
        concept: the concept prompt that was attacked.
        recovered: (L* − L) / (L* − L₀), with L the edited model's denoising loss for the learned
            word, L₀ the unedited model's for the concept prompt and L* its loss for the empty
            prompt, or for the target prompt if that is smaller. 1: the word is as good as the
            concept's name was; 0: it says nothing about the images that no prompt had to say.
        drift: ‖ε_edited − ε‖ / ‖ε‖ for preserve prompts of the edit that was attacked.
    """

    round: int
    concept: str
    recovered: float
    drift: float

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "recovered": round(self.recovered, 4),
            "drift": round(self.drift, 5),
        }


def harden(
    model: LoadedModel,
    problem: ContextProblem,
    task: Task,
    settings: Any,
    weights_of: Callable[[RidgeMap], Weights],
    encoder: Weights,
    observer: Observer,
) -> tuple[ContextProblem, tuple[Attack, ...]]:
    """The problem with the requests of all rounds, and the attacks.

    Args:
        settings: `rounds`, `budget` (steps of an inversion), `max_drift`, `images`, `batch`,
            `guidance`.
        weights_of: the denoiser's new weights for a map.
        encoder: new weights of the text encoders; empty if they are not edited.
    Raises:
        EditError: those of `invert_token` and `ContextProblem.solve`.
    """
    if not settings.rounds:
        return problem, ()
    drift = Drift.of(model, task, observer)
    targets = Target.of_task(model, task, settings, observer)
    current = {**encoder, **weights_of(problem.solve())}
    moved = drift.under(current)
    attacks: list[Attack] = []
    for number in range(1, settings.rounds + 1):
        found: list[PairColumns] = []
        for target in targets:
            token, recovered = target.attack(
                current, number, steps=settings.budget, batch=settings.batch, observer=observer
            )
            attacks.append(Attack(number, target.concept, recovered, moved))
            observer.note(
                f"round {number}: inversion recovers {max(recovered, 0.0):.0%} of "
                f"'{target.concept}'; preserve prompts moved by {moved:.1%}"
            )
            if recovered >= FAILED:
                found.append(target.columns(token, encoder))
        if not found:
            continue  # the next round starts elsewhere
        for weight in WEIGHTS:
            candidate = problem
            for columns in found:
                candidate = candidate.with_request(columns, weight)
            weights = {**encoder, **weights_of(candidate.solve())}
            further = drift.under(weights)
            if further <= settings.max_drift:
                problem, current, moved = candidate, weights, further
                break
        else:
            observer.note(
                f"round {number} is not taken: preserve prompts would move by {further:.1%}"
            )
            break
    return problem, tuple(attacks)


@dataclass(frozen=True)
class Drift:
    """Predictions of the unedited model for preserve prompts, shape (n, c, h, w)."""

    model: LoadedModel
    prompts: list[str]
    noisy: Tensor
    t: Tensor
    unedited: Tensor

    @staticmethod
    def of(model: LoadedModel, task: Task, observer: Observer) -> Drift:
        prompts = spread(task.preserve, DRIFT_PROMPTS)
        generator = torch.Generator().manual_seed(task.seed + 2)
        bank = noisy_bank(
            model, prompts, steps=5, guidance=1.0, generator=generator, observer=observer
        )
        noisy, t = bank.sample(torch.arange(len(prompts)), (0, 10**9), generator)
        return Drift(model, prompts, noisy, t, predictions(model, noisy, t, prompts))

    def under(self, weights: Weights) -> float:
        """‖ε_edited − ε‖ / ‖ε‖ with these weights."""
        with self.model.weights(weights):
            edited = predictions(self.model, self.noisy, self.t, self.prompts)
        return float((edited - self.unedited).norm() / self.unedited.norm())


@dataclass(frozen=True)
class Target:
    """One concept under attack.

    Attributes:
        concept, target: the concept's first prompt pair.
        latents: of the unedited model's images of the concept, shape (n, c, h, w).
        goal: the target prompt's contexts in the unedited model, float64, shape (length, d).
        goal_at: the position of its subject's last token.
        best, worst: L₀ and L*, see `Attack`.
        seed: of the inversions.
    """

    model: LoadedModel
    concept: str
    target: str
    latents: Tensor
    goal: Tensor
    goal_at: int
    best: float
    worst: float
    seed: int

    @staticmethod
    def of_task(model: LoadedModel, task: Task, settings: Any, observer: Observer) -> list[Target]:
        """Every concept of a task.

        Args:
            settings: `images` and `guidance`.
        """
        return [
            Target.of(model, pairs, settings, task.seed + 101 * number, observer)
            for number, pairs in enumerate(task.concepts or (task.pairs,))
        ]

    @staticmethod
    def of(
        model: LoadedModel,
        pairs: Sequence[tuple[str, str]],
        settings: Any,
        seed: int,
        observer: Observer,
    ) -> Target:
        """The concept of these pairs of prompts, before any weight is changed."""
        prompts = [pairs[i % len(pairs)][0] for i in range(settings.images)]
        latents = concept_latents(
            model, prompts, guidance=settings.guidance, seed=seed, observer=observer
        )
        concept, target = pairs[0]
        batch = tokenise(model.tokenizer, [concept, target])
        first, second = words_of(model, batch).ids.tolist()
        _, at = subject_ends(pieces(model.tokenizer, first), pieces(model.tokenizer, second))
        best, *others = (
            denoising_loss(model, latents, [prompt], seed) for prompt in (concept, target, "")
        )
        return Target(
            model,
            concept,
            target,
            latents,
            contexts(token_states(model), batch)[1],
            at,
            best,
            min(others),
            seed,
        )

    def attack(
        self,
        weights: Weights,
        number: int,
        *,
        steps: int,
        batch: int,
        lr: float = 0.1,
        observer: Observer,
    ) -> tuple[LearnedToken, float]:
        """A word learned through the model with these weights, and what it recovers.

        Args:
            number: of the round, from 1.
            steps, batch, lr: see `invert_token`.
        """
        # The descent starts at the concept, at the target and at the vocabulary's mean in turn.
        start = (self.concept, self.target, None)[(number - 1) % 3]
        with self.model.weights(weights):
            token = invert_token(
                self.model,
                self.latents,
                start=start,
                steps=steps,
                lr=lr,
                batch=batch,
                seed=self.seed + number,
                observer=observer,
            )
            with token.inserted(self.model):
                prompts = [token.prompt(template) for template in PROMPTS]
                loss = denoising_loss(self.model, self.latents, prompts, self.seed)
        # Without a gap, the concept's name says nothing about its images.
        gap = max(self.worst - self.best, 1e-3 * self.worst)
        return token, (self.worst - loss) / gap

    def columns(self, token: LearnedToken, encoder: Weights) -> PairColumns:
        """The learned word's contexts, from its own position on, and the target's to map them to.

        Args:
            encoder: the text encoders' weights through which the word was learned.
        """
        model = self.model
        batch = tokenise(model.tokenizer, [token.prompt(template) for template in PROMPTS])
        with model.weights(encoder), token.inserted(model):
            found = contexts(token_states(model), batch)  # (prompts, length, d)
        number = token_ids(model, token.word)[model.encoders[0].component]
        concepts, targets = [], []
        for ids, states in zip(words_of(model, batch).ids.tolist(), found):
            at = ids.index(number)
            for offset in range(len(states) - max(at, self.goal_at)):
                concepts.append(states[at + offset])
                targets.append(self.goal[self.goal_at + offset])
        return PairColumns(torch.stack(concepts, 1), torch.stack(targets, 1))


@torch.no_grad()
def denoising_loss(model: LoadedModel, latents: Tensor, prompts: Sequence[str], seed: int) -> float:
    """The mean squared error of the predictions at `PROBES` noisy images of the latents, the
    prompts in turn; the same images at every call with the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    scheduler = model.sampler(1)
    clean = latents[torch.randint(len(latents), (PROBES,), generator=generator)]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    last = scheduler.config.num_train_timesteps
    t = torch.randint(last, (PROBES,), generator=generator).to(clean.device)
    noisy = scheduler.add_noise(clean, noise, t)
    wanted = prediction_target(scheduler, clean, noise, t)
    named = [prompts[i % len(prompts)] for i in range(PROBES)]
    found = predictions(model, noisy, t, named)
    return float(F.mse_loss(found, wanted.cpu().double()))
