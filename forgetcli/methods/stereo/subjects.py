"""What is erased: contexts of concepts, each with its anchor and with images of the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.editing.finetuning import Teacher, encoded
from forgetcli.models.base import Context, LoadedModel


@dataclass(frozen=True)
class Subjects:
    """Contexts that the denoiser is trained at.

    Attributes:
        contexts: n rows.
        anchors: the anchor of each row, n rows.
        owner: the number of the concept of each row, int64, shape (n,).
    """

    contexts: Context
    anchors: Context
    owner: Tensor

    @staticmethod
    @torch.no_grad()
    def of(
        model: LoadedModel, concepts: Sequence[Sequence[tuple[str, str]]], anchor: str
    ) -> Subjects:
        """The concept prompts of these pairs.

        Args:
            concepts: the pairs of each concept.
            anchor: `target` or `concept`.
        Raises:
            EditError: a prompt is too long.
        """
        pairs = [pair for each in concepts for pair in each]
        contexts = encoded(model, [concept for concept, _ in pairs])
        anchors = contexts
        if anchor == "target":
            anchors = encoded(model, [target for _, target in pairs])
        owner = [number for number, each in enumerate(concepts) for _ in each]
        return Subjects(contexts, anchors, torch.tensor(owner))

    def named(self, words: Sequence[Context]) -> Subjects:
        """As many rows, with the contexts of learned words in place of the concepts' own.

        Args:
            words: for each concept, the word's contexts in some prompts, taken in turn.
        """
        turns = torch.zeros(len(words), dtype=torch.long)
        rows = []
        for concept in self.owner.tolist():
            word = words[concept]
            number = int(turns[concept]) % len(word.hidden)
            rows.append(word[number : number + 1])
            turns[concept] += 1
        return Subjects(Context.cat(rows), self.anchors, self.owner)

    @staticmethod
    def cat(parts: Sequence[Subjects]) -> Subjects:
        return Subjects(
            Context.cat([part.contexts for part in parts]),
            Context.cat([part.anchors for part in parts]),
            torch.cat([part.owner for part in parts]),
        )


@dataclass(frozen=True)
class NoisedImages:
    """x_t of images of the concepts, with noise for a random time in every step.

    Attributes:
        latents: of the images of each concept, shape (images, c, h, w) each.
        owner: the number of the concept of each row.
    """

    model: LoadedModel
    latents: Sequence[Tensor]
    owner: Tensor

    def sample(
        self, rows: Tensor, teacher: Teacher, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and what the teacher requests there, for these rows of its concepts."""
        scheduler = self.model.sampler(1)  # only its noise is used
        images = [self.latents[concept] for concept in self.owner[rows].tolist()]
        drawn = [int(torch.randint(len(each), (1,), generator=generator)) for each in images]
        clean = torch.stack([each[number] for each, number in zip(images, drawn)])
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        last = scheduler.config.num_train_timesteps
        t = torch.randint(last, (len(rows),), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        return noisy, t, teacher.wanted(noisy, t, rows)


@dataclass(frozen=True)
class Composition(Teacher):
    """The teacher of the second stage; `eta` is b.

    Attributes:
        attract: a.
        negatives: for each concept, the contexts c_k: the concept's plainest prompt and its words.
        owner: the number of the concept of each row.
    """

    attract: float
    negatives: tuple[Context, ...]
    owner: Tensor

    @torch.no_grad()
    def wanted(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """ε(∅) + a (ε(anchor) − ε(∅)) − b · mean_k (ε(c_k) − ε(∅)) at x_t, (n, c, h, w), and t,
        (n,); float32.
        """
        owners = self.owner[rows].tolist()
        n, count = len(rows), len(self.negatives[0].hidden)
        asked = [self.empty.repeated(n), self.anchors[rows]]
        asked += [
            Context.cat([self.negatives[owner][k : k + 1] for owner in owners])
            for k in range(count)
        ]
        k = len(asked)
        empty, anchor, *negatives = (
            self.model.denoise(noisy.repeat(k, 1, 1, 1), t.repeat(k), Context.cat(asked))
            .float()
            .chunk(k)
        )
        mean = torch.stack(negatives).mean(0)
        return empty + self.attract * (anchor - empty) - self.eta * (mean - empty)
