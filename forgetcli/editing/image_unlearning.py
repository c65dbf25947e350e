"""Unlearning at images of a concept: the fine-tuning that follows a closed form.

A closed form moves the contexts that prompts give the denoiser. Concept inversion finds other
contexts, from which the denoiser still generates the concept. So here the denoiser is trained where
the concept is seen: at noised images of it. *Whatever context it reads* there, it is to predict

    ε(target) − b (ε(concept) − ε(∅))

with the unedited model's ε: an image that begins to look like the concept is led away from it. The
contexts are those of the concept's prompts and of words that bring the concept back, which concept
inversion learns meanwhile; where the noised image shows the concept, also those of the empty and of
unrelated prompts. At noised images of preserve prompts the denoiser is to predict what the unedited
one does.

Each step of the training is also a step of the inversions, as in "free" adversarial training
(Shafahi et al., arXiv 1904.12843). Words that were learned before are replayed, since a network
that is trained against the latest attack alone forgets how to withstand the others. The requested
prediction is ESD's (arXiv 2303.07345, eq. 6) with the target as anchor; concept inversion is that
of Pham et al. (arXiv 2308.01508).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.check import spread
from forgetcli.editing.finetuning import Student, encoded, step, trained_names
from forgetcli.editing.inversion import (
    PROMPTS,
    borrowed_word,
    concept_latents,
    inserted,
    prediction_target,
    starting_vectors,
)
from forgetcli.editing.task import Task
from forgetcli.editing.unlearning_sizes import (
    KEPT,
    PICTURES,
    PRESERVED,
    PROMPTED,
    REPEATS,
    REPLAYED,
    UNRELATED,
    WORDS,
)
from forgetcli.models import vocabulary
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Observer

Weights = Mapping[tuple[str, str], Tensor]

# Below this time, out of 1000, a noised image shows the concept: the unedited denoiser finishes it
# as such without a prompt (docs/robustness.md).
SEEN = 600
VOCABULARY = 60  # words among the unrelated contexts
PREDICTED = 32  # predictions made at a time

WORD_LR = 0.1  # relative to the root mean square of the embeddings' entries
WORD_STEPS = 400  # steps after which a word begins anew elsewhere
# A word whose denoising loss is above this times that of the target's prompt brings nothing back:
# it has become another concept, which must stay.
HARMLESS = 1.2
MEMORY = 0.9  # of the running mean of that ratio
REMEMBERED = 5  # the words of every so many steps are replayed later


@dataclass(frozen=True)
class Requests:
    """What is to be predicted at noised images.

    Attributes:
        noisy: x_t, shape (n, c, h, w).
        t: shape (n,).
        wanted: the requested predictions, float32, shape (n, c, h, w).
    """

    noisy: Tensor
    t: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Subject:
    """One concept.

    Attributes:
        requests: at images of the concept.
        seen: the numbers of the requests whose image shows the concept.
        truth: what a denoiser that knows the images predicts there, float32, shape (n, c, h, w).
        bars: the unedited model's errors for the target's prompts, shape (n,).
        prompts: contexts of its prompts, of the unedited and of the edited text encoders.
        words: that bring it back.
    """

    requests: Requests
    seen: Tensor
    truth: Tensor
    bars: Tensor
    prompts: Context
    words: Words


class Words:
    """Words that concept inversion learns through the denoiser while it is trained."""

    def __init__(
        self, model: LoadedModel, concept: str, target: str, generator: torch.Generator
    ) -> None:
        self.model = model
        self.generator = generator
        self.borrowed = borrowed_word(model, PROMPTS)
        prompts = [prompt.replace("{}", self.borrowed) for prompt in PROMPTS]
        self.ids = tokenise(model.tokenizer, prompts).ids
        self.starts: tuple[str | None, ...] = (concept, None, target)
        self.begun = 0
        self.learned = [self._begin() for _ in range(WORDS)]
        self.ratios = [HARMLESS] * WORDS  # loss by the target prompt's, running means
        self.past: list[dict[str, Tensor]] = []

    def contexts(self) -> Context:
        """Each word in a random prompt; gradients reach the words."""
        return self._encoded([vectors for vectors, _ in self.learned])

    @torch.no_grad()
    def replayed(self, n: int) -> Context:
        """Words as they were at random earlier steps; at first, as they are."""
        past = self.past or [vectors for vectors, _ in self.learned]
        return self._encoded([past[self._random(len(past))] for _ in range(n)])

    def follow(self, errors: Tensor, bars: Tensor, number: int) -> None:
        """A step of every word down its error, whose graph is retained.

        Args:
            errors: of the predictions for `contexts`, shape (words,).
            bars: the unedited model's errors there for the target's prompt, shape (words,).
            number: of the step, from 0.
        """
        for i, ratio in enumerate((errors.detach() / bars).tolist()):
            self.ratios[i] = MEMORY * self.ratios[i] + (1 - MEMORY) * ratio
        free = [vector for vectors, _ in self.learned for vector in vectors.values()]
        gradients = torch.autograd.grad(errors.sum(), free, retain_graph=True)
        for vector, gradient in zip(free, gradients):
            vector.grad = gradient
        if number % REMEMBERED == 0:
            self.past += [
                {name: vector.detach().clone() for name, vector in vectors.items()}
                for (vectors, _), harmful in zip(self.learned, self.harmful())
                if harmful
            ]
        for _, optimiser in self.learned:
            optimiser.step()
        # One after another, so that some words are always old.
        if number and number % (WORD_STEPS // WORDS) == 0:
            oldest = (number * WORDS // WORD_STEPS - 1) % WORDS
            self.learned[oldest], self.ratios[oldest] = self._begin(), HARMLESS

    def harmful(self) -> Tensor:
        """Which words bring the concept back: bool, shape (words,)."""
        return torch.tensor([ratio < HARMLESS for ratio in self.ratios])

    def _begin(self) -> tuple[dict[str, Tensor], torch.optim.Adam]:
        """A word at the concept, the vocabulary's mean, the target or a random word, in turn."""
        turn = self.begun % (len(self.starts) + 1)
        self.begun += 1
        if turn < len(self.starts):
            start = self.starts[turn]
        else:
            words = vocabulary.words(self.model.tokenizer)
            start = words[self._random(len(words))]
        vectors, scales = starting_vectors(self.model, start)
        groups = [{"params": [vectors[name]], "lr": WORD_LR * scales[name]} for name in vectors]
        return vectors, torch.optim.Adam(groups)

    def _encoded(self, words: Sequence[Mapping[str, Tensor]]) -> Context:
        vectors = {name: torch.stack([each[name] for each in words])[:, None] for name in words[0]}
        rows = torch.randint(len(self.ids), (len(words),), generator=self.generator)
        with inserted(self.model, self.borrowed, vectors):
            return self.model.encode(self.ids[rows])

    def _random(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))


def unlearn(
    model: LoadedModel,
    task: Task,
    settings: Any,
    encoder: Weights,
    start: Mapping[str, Tensor],
    observer: Observer,
) -> tuple[dict[str, Tensor], list[float]]:
    """The change of every weight of the denoiser, float32, by name, and the loss by step.

    Args:
        settings: `finetune` (steps for each concept), `finetune_lr`, `repel` (b), `keep` (weight of
            the images of preserve prompts), `guidance` (when images are generated).
        encoder: new weights of the text encoders; empty if they are not edited.
        start: changes of some weights that the training starts from; they are part of the result.
    Raises:
        EditError: a prompt is too long, the denoiser has no cross-attention, or the loss is no
            longer finite.
    """
    generator = torch.Generator().manual_seed(task.seed)
    student = Student(model, trained_names(model, "all"), start)
    concepts = task.concepts or (task.pairs,)
    subjects = [
        subject(model, pairs, settings, encoder, task.seed + 101 * number, generator, observer)
        for number, pairs in enumerate(concepts)
    ]
    kept = Kept.of(model, task, settings, encoder, generator, observer)
    unrelated = unrelated_contexts(model, kept, generator)
    optimiser = torch.optim.Adam(student.changes.values(), lr=settings.finetune_lr)
    losses: list[float] = []
    steps = settings.finetune * len(subjects)
    observer.stage("fine-tuning", steps)
    with model.weights(encoder):
        for number in range(steps):
            concept = subjects[number % len(subjects)]
            asked = concept.requests
            rows = torch.cat(
                [
                    drawn(len(asked.noisy), WORDS + REPLAYED + PROMPTED, generator),
                    concept.seen[drawn(len(concept.seen), UNRELATED, generator)],
                ]
            )
            others = drawn(len(kept.reads), KEPT, generator)
            read = [concept.words.contexts(), concept.words.replayed(REPLAYED)]
            read.append(concept.prompts[drawn(len(concept.prompts.hidden), PROMPTED, generator)])
            read.append(unrelated[drawn(len(unrelated.hidden), UNRELATED, generator)])
            read.append(kept.contexts[kept.reads[others]])
            predicted = student.predict(
                torch.cat([asked.noisy[rows], kept.requests.noisy[others]]),
                torch.cat([asked.t[rows], kept.requests.t[others]]),
                Context.cat(read),
            ).float()
            led, stays = predicted[:-KEPT], predicted[-KEPT:]
            concept.words.follow(
                squared(led[:WORDS], concept.truth[rows[:WORDS]]),
                concept.bars[rows[:WORDS]],
                number // len(subjects),
            )
            counts = torch.ones(len(led), device=led.device)
            counts[:WORDS] = concept.words.harmful()
            loss = (counts * squared(led, asked.wanted[rows])).mean() + settings.keep * squared(
                stays, kept.requests.wanted[others]
            ).mean()
            # The rate falls to zero over the second half, so that the words catch up.
            for group in optimiser.param_groups:
                group["lr"] = settings.finetune_lr * min(1.0, 2 * (1 - number / steps))
            step(optimiser, loss, losses, observer)
    return student.trained(), losses


def subject(
    model: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    settings: Any,
    encoder: Weights,
    seed: int,
    generator: torch.Generator,
    observer: Observer,
) -> Subject:
    """A concept, from the unedited model; see `unlearn`.

    Half of its images are of the plainest prompts: one word explains them most easily.
    """
    concept, target = pairs[0]
    plain = [(p.replace("{}", concept), p.replace("{}", target)) for p in PROMPTS]
    half = PICTURES // 2
    chosen = [each[i % len(each)] for each in (plain, pairs) for i in range(half)]
    named = [prompt for prompt, _ in chosen]
    latents = concept_latents(
        model, named, guidance=settings.guidance, seed=seed, observer=observer
    )
    rows = torch.arange(len(chosen)).repeat(REPEATS)
    noisy, t, truth = noised(model, latents[rows], generator)
    with torch.no_grad():
        concepts = encoded(model, named)
        targets = encoded(model, [prompt for _, prompt in chosen])
        empty = model.unconditional().repeated(len(rows))
        target_at = predicted_at(model, noisy, t, targets[rows])
        wanted = target_at - settings.repel * (
            predicted_at(model, noisy, t, concepts[rows]) - predicted_at(model, noisy, t, empty)
        )
        prompts = [prompt for prompt, _ in (*plain, *pairs)]
        contexts = encoded(model, prompts)
        with model.weights(encoder):
            contexts = Context.cat([contexts, encoded(model, prompts)])
            words = Words(model, concept, target, generator)
    # At least one: the least noised.
    seen = (t <= t.min().clamp_min(SEEN - 1)).nonzero().flatten().cpu()
    return Subject(
        Requests(noisy, t, wanted), seen, truth, squared(target_at, truth), contexts, words
    )


@dataclass(frozen=True)
class Kept:
    """What must stay.

    Attributes:
        requests: at images of preserve prompts.
        contexts: of the prompts and, as the last one, of the empty prompt.
        reads: for each request, the number of the context that is read there.
    """

    requests: Requests
    contexts: Context
    reads: Tensor

    @staticmethod
    @torch.no_grad()
    def of(
        model: LoadedModel,
        task: Task,
        settings: Any,
        encoder: Weights,
        generator: torch.Generator,
        observer: Observer,
    ) -> Kept:
        """The unedited model's predictions; the contexts are the edited text encoders'."""
        prompts = spread(task.preserve, PRESERVED)
        own, noisy, t = [], [], []
        # With and without guidance, at noised images and where the sampler passes through: a
        # denoiser that is held at noised images alone moves elsewhere.
        for first, guidance in ((0, settings.guidance), (1, 1.0)):
            numbers = torch.arange(len(prompts))[first::2]
            if not len(numbers):
                continue
            bank = noisy_bank(
                model,
                prompts[first::2],
                steps=20,
                guidance=guidance,
                generator=torch.Generator().manual_seed(task.seed + 1 + first),
                observer=observer,
            )
            rows = torch.arange(len(numbers)).repeat(REPEATS // 2)
            passed = bank.sample(rows, (0, 1000), generator)
            drowned, times, _ = noised(model, bank.finished[rows], generator)
            own += [numbers[rows]] * 2
            noisy += [passed[0], drowned]
            t += [passed[1].to(times), times]
        rows, x, times = torch.cat(own), torch.cat(noisy), torch.cat(t)
        # Mostly the image's own prompt, but what other prompts make of it must stay too.
        kind = torch.rand(len(rows), generator=generator)
        n = len(prompts)
        other = torch.randint(n, (len(rows),), generator=generator)
        reads = torch.where(kind < 0.7, rows, torch.where(kind < 0.9, other, n))
        contexts = Context.cat([encoded(model, prompts), model.unconditional()])
        wanted = predicted_at(model, x, times, contexts[reads])
        with model.weights(encoder):
            contexts = Context.cat([encoded(model, prompts), model.unconditional()])
        return Kept(Requests(x, times, wanted), contexts, reads)


@torch.no_grad()
def unrelated_contexts(model: LoadedModel, kept: Kept, generator: torch.Generator) -> Context:
    """The contexts of preserve prompts, of the empty prompt and of words of the vocabulary."""
    words = vocabulary.words(model.tokenizer)
    chosen = [words[int(i)] for i in drawn(len(words), VOCABULARY, generator)]
    prompts = [PROMPTS[i % len(PROMPTS)].replace("{}", word) for i, word in enumerate(chosen)]
    return Context.cat([kept.contexts, encoded(model, prompts)])


def noised(
    model: LoadedModel, latents: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and what a denoiser is trained to predict there, at random times."""
    scheduler = model.sampler(1)  # only its noise is used
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    last = scheduler.config.num_train_timesteps
    t = torch.randint(last, (len(latents),), generator=generator).to(latents.device)
    truth = prediction_target(scheduler, latents, noise, t)
    return scheduler.add_noise(latents, noise, t), t, truth.float()


@torch.no_grad()
def predicted_at(model: LoadedModel, noisy: Tensor, t: Tensor, contexts: Context) -> Tensor:
    """The predictions at x_t, (n, c, h, w), and t, (n,), for n contexts; float32."""
    parts = [slice(i, i + PREDICTED) for i in range(0, len(noisy), PREDICTED)]
    return torch.cat(
        [model.denoise(noisy[part], t[part], contexts[part]).float() for part in parts]
    )


def squared(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each image, shape (n,), for (n, c, h, w)."""
    return (predicted - wanted).square().mean((1, 2, 3))


def drawn(count: int, n: int, generator: torch.Generator) -> Tensor:
    """n random numbers below `count`."""
    return torch.randint(count, (n,), generator=generator)
