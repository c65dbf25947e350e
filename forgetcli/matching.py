"""What the edited model must agree with: the losses that the refinement descends on.

Either the denoiser's prediction, MSE(ε(x_t, t, c), ε(x_t, t, c*)), or what the denoiser reads of the contexts themselves; c is
the edited encoder's context for the concept prompt, c* the unedited one's for the target prompt.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.models._loaded import Context
from forgetcli.progress import Observer
from forgetcli.prompts import TokenBatch, tokenise
from forgetcli.trajectories import NoisyBank, noisy_bank


@dataclass(frozen=True)
class Pairs:
    """Concept prompts and, row by row, what they should turn into.

    Attributes:
        concepts, targets: tokens, n rows each.
        movable: bool, shape (distinct concept prefixes,): which tokens' outputs may be asked to change.
    """

    concepts: TokenBatch
    targets: TokenBatch
    movable: Tensor

    @staticmethod
    def of(tokenizer, pairs: Sequence[tuple[str, str]], positions: str) -> Pairs:
        concepts = tokenise(tokenizer, [concept for concept, _ in pairs], strict=True)
        targets = tokenise(tokenizer, [target for _, target in pairs], strict=True)
        movable = torch.ones(len(concepts.first), dtype=torch.bool)
        for part in concepts.parts if positions == "from-concept" else ():
            if part.causal:
                # Up to the first token that differs, concept and target prompt mean the same: nothing is to change there.
                columns = slice(part.start, part.stop)
                same = (concepts.ids[:, columns] == targets.ids[:, columns]).cumprod(1).bool()
                movable[concepts.owner[:, columns][same]] = False
        return Pairs(concepts, targets, movable)

    def of_encoder(self, encoder: str) -> Pairs:
        """What one text encoder reads of them."""
        for part in self.concepts.parts if len(self.concepts.parts) > 1 else ():
            if part.encoder == encoder:
                # Its distinct prefixes, in the order in which they first occur: the numbers that they have among themselves.
                distinct = self.concepts.owner[:, part.start:part.stop].unique()
                return Pairs(self.concepts.of(encoder), self.targets.of(encoder), self.movable[distinct])
        return self


@dataclass
class Matcher:
    """Draws batches and computes the loss for the encoder as it is at the moment.

    Attributes:
        target_context: c* of n rows, from the unedited encoder.
        rows: the concept prompts that are being encoded, int64.
    """

    model: object
    pairs: Pairs
    target_context: Context
    bank: NoisyBank
    batch: int
    timesteps: tuple[int, int]
    generator: torch.Generator
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @staticmethod
    def of(model, pairs: Pairs, settings, seed: int, observer: Observer) -> Matcher:
        generator = torch.Generator().manual_seed(seed)
        # Pictures on the way to the concept and on the way to the target: the edited model will pass through both.
        bank = noisy_bank(model, pairs.concepts.prompts + pairs.targets.prompts, steps=settings.latent_steps,
                          guidance=settings.guidance, generator=generator, observer=observer)
        with torch.no_grad():
            target_context = model.encode(pairs.targets.ids)
        return Matcher(model, pairs, target_context, bank, settings.batch, settings.timesteps, generator)

    def loss(self) -> Tensor:
        n = len(self.pairs.concepts.prompts)
        rows = torch.randint(n, (self.batch,), generator=self.generator)
        side = torch.randint(2, (self.batch,), generator=self.generator)
        noisy, t = self.bank.draw(rows + n * side, self.timesteps, self.generator)
        t = t.to(self.model.device)
        with torch.no_grad():
            wanted = self.model.denoise(noisy, t, self.target_context[rows])
        self.rows, where = rows.unique(return_inverse=True)           # each prompt is encoded once a step
        context = self.model.encode(self.pairs.concepts.ids[self.rows])[where]
        return F.mse_loss(self.model.denoise(noisy, t, context).float(), wanted.float())


@dataclass
class ContextMatcher:
    """The loss without the denoiser's run: what its cross-attention reads of the contexts, ‖W(c − c*)‖² / ‖W(c₀ − c*)‖².

    W is every `to_k` and `to_v`, one above the other; equal readings give equal predictions, whatever the picture. Where a
    denoiser reads pooled summaries too, their distance is added, in the same units. One without layers that read the context
    alone (Stable Diffusion 3, Flux) is taken to read it as it is: W = 1.

    Attributes:
        metric: WᵀW, float32, shape (d, d), or None for 1.
        target_context: c* of n rows, from the unedited encoder.
        unit: ‖W(c₀ − c*)‖², c₀ the unedited contexts of the concept prompts; and the summaries' own.
        rows: the concept prompts that are being encoded: all of them.
    """

    model: object
    pairs: Pairs
    metric: Tensor | None
    target_context: Context
    unit: tuple[Tensor, ...]
    rows: Tensor

    @staticmethod
    def of(model, pairs: Pairs, settings, seed: int, observer: Observer) -> ContextMatcher:
        layers = [site.module.weight.detach().float() for site in model.cross_attention.values()]
        metric = sum(weight.T @ weight for weight in layers) if layers else None
        with torch.no_grad():
            matcher = ContextMatcher(model, pairs, metric, model.encode(pairs.targets.ids), (), torch.arange(len(pairs.concepts.prompts)))
            matcher.unit = tuple(distance.clamp_min(1e-12) for distance in matcher.distances())
        return matcher

    def distances(self) -> list[Tensor]:
        """Squared, of the hidden states as they are read, and of the summaries if there are any."""
        context = self.model.encode(self.pairs.concepts.ids)
        off = context.hidden.float() - self.target_context.hidden.float()                    # (n, length, d)
        found = [((off if self.metric is None else off @ self.metric) * off).sum()]
        if context.pooled is not None:
            found.append((context.pooled.float() - self.target_context.pooled.float()).pow(2).sum())
        return found

    def loss(self) -> Tensor:
        parts = self.distances()
        return sum(distance / unit for distance, unit in zip(parts, self.unit)) / len(parts)
