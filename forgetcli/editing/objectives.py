"""The losses of the refinement: what the edited model should reproduce.

`Matcher` compares the denoiser's predictions, MSE(ε(x_t, t, c), ε(x_t, t, c*)). `ContextMatcher`
compares what the denoiser reads from the contexts. c is the edited encoder's context for the
concept prompt, c* the unedited encoder's context for the target prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.editing.pairs import Pairs
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.trajectories import NoisyBank, noisy_bank
from forgetcli.progress import Observer


@torch.no_grad()
def encoded_targets(model: LoadedModel, pairs: Pairs) -> Context:
    """The contexts of the target prompts, each distinct one encoded once: concepts often share
    theirs.
    """
    distinct, where = pairs.targets.ids.unique(dim=0, return_inverse=True)
    return model.encode(distinct)[where]


@dataclass(frozen=True)
class NoisyBatch:
    """Noisy images, each with its prompt.

    Attributes:
        rows: numbers of the prompts, shape (k,).
        noisy: x_t, shape (k, c, h, w).
        t: shape (k,).
        target_prediction: predictions for the target prompts, of the shape of x_t.
    """

    rows: Tensor
    noisy: Tensor
    t: Tensor
    target_prediction: Tensor


@dataclass
class Matcher:
    """Loss of the denoiser's predictions with the encoder in its current state.

    Attributes:
        target_context: c* of n rows, from the unedited encoder.
        rows: the concept prompts that are being encoded, int64.
        evaluation: the noisy images of `losses`, sampled by its first call.
    """

    model: LoadedModel
    pairs: Pairs
    target_context: Context
    bank: NoisyBank
    batch: int
    timesteps: tuple[int, int]
    generator: torch.Generator
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    evaluation: list[NoisyBatch] = field(default_factory=list)

    @staticmethod
    def of(
        model: LoadedModel, pairs: Pairs, settings: Any, seed: int, observer: Observer
    ) -> Matcher:
        generator = torch.Generator().manual_seed(seed)
        # Noisy images for the concept and for the target: the edited model will denoise both.
        bank = noisy_bank(
            model,
            pairs.concepts.prompts + pairs.targets.prompts,
            steps=settings.latent_steps,
            guidance=settings.guidance,
            generator=generator,
            observer=observer,
        )
        return Matcher(
            model,
            pairs,
            encoded_targets(model, pairs),
            bank,
            settings.batch,
            settings.timesteps,
            generator,
        )

    def loss(self) -> Tensor:
        """The loss of a new batch of noisy images."""
        return self.mismatch(
            self.sample(
                torch.randint(
                    len(self.pairs.concepts.prompts), (self.batch,), generator=self.generator
                )
            )
        )

    def losses(self, images: int) -> Iterator[Tensor]:
        """Parts of the loss of the same noisy images at every call; their sum is the mean.

        Args:
            images: number of noisy images, rounded up to the same number for every prompt.
        """
        if not self.evaluation:
            count = len(self.pairs.concepts.prompts)
            rows = torch.arange(count * ceil(images / count)) % count
            self.evaluation = [self.sample(part) for part in rows.split(self.batch)]
        total = sum(len(noisy_batch.rows) for noisy_batch in self.evaluation)
        for noisy_batch in self.evaluation:
            yield self.mismatch(noisy_batch) * len(noisy_batch.rows) / total

    @torch.no_grad()
    def sample(self, rows: Tensor) -> NoisyBatch:
        """One noisy image for each row, of its concept or target, with the target prediction."""
        side = torch.randint(2, (len(rows),), generator=self.generator)
        noisy, t = self.bank.sample(
            rows + len(self.pairs.concepts.prompts) * side, self.timesteps, self.generator
        )
        t = t.to(self.model.device)
        prediction = self.model.denoise(noisy, t, self.target_context[rows]).float()
        return NoisyBatch(rows, noisy, t, prediction)

    def mismatch(self, noisy_batch: NoisyBatch) -> Tensor:
        # Each prompt is encoded once.
        self.rows, where = noisy_batch.rows.unique(return_inverse=True)
        context = self.model.encode(self.pairs.concepts.ids[self.rows])[where]
        prediction = self.model.denoise(noisy_batch.noisy, noisy_batch.t, context).float()
        return F.mse_loss(prediction, noisy_batch.target_prediction)


@dataclass
class ContextMatcher:
    """Loss of what the denoiser's cross-attention reads from the contexts, without running the
    denoiser: ‖W(c − c*)‖² / ‖W(c₀ − c*)‖².

    W is every `to_k` and `to_v`, stacked. If W c is equal, the predictions are equal, whatever the
    image. Where a denoiser also reads pooled summaries, their distance is added in the same units.
    W = 1 for denoisers without cross-attention (Stable Diffusion 3, Flux).

    Attributes:
        metric: WᵀW, float32, shape (d, d), or None for W = 1.
        target_context: c* of n rows, from the unedited encoder.
        unit: mean ‖W(c₀ − c*)‖² per prompt, with c₀ the unedited contexts of the concept prompts,
            and the same for the summaries; empty: losses are not divided by it.
        batch: number of prompts encoded at a time.
        rows: the concept prompts that are being encoded, int64.
    """

    model: LoadedModel
    pairs: Pairs
    metric: Tensor | None
    target_context: Context
    unit: tuple[Tensor, ...]
    batch: int
    generator: torch.Generator
    rows: Tensor

    @staticmethod
    def of(
        model: LoadedModel, pairs: Pairs, settings: Any, seed: int, observer: Observer
    ) -> ContextMatcher:
        layers = [site.module.weight.detach().float() for site in model.cross_attention.values()]
        metric = sum(weight.T @ weight for weight in layers).to(model.device) if layers else None
        everything = torch.arange(len(pairs.concepts.prompts))
        with torch.no_grad():
            matcher = ContextMatcher(
                model,
                pairs,
                metric,
                encoded_targets(model, pairs),
                (),
                settings.batch,
                torch.Generator().manual_seed(seed),
                everything,
            )
            # The joint descent divides by its first loss, so a distance alone needs no unit, for
            # which all concept prompts would be encoded once more.
            if settings.mode != "joint" or matcher.target_context.pooled is not None:
                matcher.unit = tuple(distance.clamp_min(1e-12) for distance in matcher.distances())
        return matcher

    def distances(self) -> list[Tensor]:
        """Mean squared distances over `rows`: of the hidden states as they are read, and of the
        summaries if there are any.
        """
        context = self.model.encode(self.pairs.concepts.ids[self.rows])
        target = self.target_context[self.rows]
        difference = context.hidden.float() - target.hidden.float()  # (rows, length, d)
        distances = [
            ((difference if self.metric is None else difference @ self.metric) * difference).sum()
            / len(self.rows)
        ]
        if context.pooled is not None and target.pooled is not None:
            distances.append(
                (context.pooled.float() - target.pooled.float()).pow(2).sum() / len(self.rows)
            )
        return distances

    def loss(self) -> Tensor:
        """The loss of a new batch of prompts, or of all prompts if they fit in a batch."""
        count = len(self.pairs.concepts.prompts)
        rows = (
            torch.randperm(count, generator=self.generator)[: self.batch]
            if count > self.batch
            else torch.arange(count)
        )
        return self.mismatch(rows)

    def losses(self, images: int = 0) -> Iterator[Tensor]:
        """Parts of the loss of all prompts; their sum is the mean. No images are needed."""
        count = len(self.pairs.concepts.prompts)
        for rows in torch.arange(count).split(self.batch):
            yield self.mismatch(rows) * len(rows) / count

    def mismatch(self, rows: Tensor) -> Tensor:
        self.rows = rows
        parts = self.distances()
        if not self.unit:
            return parts[0]
        return sum(distance / unit for distance, unit in zip(parts, self.unit)) / len(parts)
