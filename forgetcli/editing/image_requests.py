"""What `image_unlearning` asks of the denoiser: predictions at noised images of a concept, and at
images of preserve prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.adversarial_rounds import denoising_loss
from forgetcli.editing.adversarial_words import Words
from forgetcli.editing.check import spread
from forgetcli.editing.finetuning import encoded
from forgetcli.editing.inversion import PROMPTS, concept_latents, prediction_target
from forgetcli.editing.task import Task
from forgetcli.editing.unlearning_sizes import PICTURES, PRESERVED, REPEATS
from forgetcli.models import vocabulary
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Observer

Weights = Mapping[tuple[str, str], Tensor]

# Below this time, out of 1000, a noised image shows the concept: the unedited denoiser finishes it
# as such without a prompt (docs/robustness.md).
SEEN = 600
VOCABULARY = 60  # words among the unrelated contexts
PREDICTED = 32  # predictions made at a time


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
        concept: its first prompt.
        plain: latents of the images of its plainest prompts, shape (n, c, h, w).
        bar: the unedited model's denoising loss at them for the target's prompt, or for the empty
            prompt if that is smaller.
        requests: at images of the concept.
        seen: the numbers of the requests whose image shows the concept.
        truth: what a denoiser that knows the images predicts there, float32, shape (n, c, h, w).
        bars: the unedited model's errors for the target's prompts, shape (n,).
        prompts: contexts of its prompts, of the unedited and of the edited text encoders.
        words: that bring it back.
    """

    concept: str
    plain: Tensor
    bar: float
    requests: Requests
    seen: Tensor
    truth: Tensor
    bars: Tensor
    prompts: Context
    words: Words


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
    asked = spread(pairs, half)
    chosen = [each[i % len(each)] for each in (plain, asked) for i in range(half)]
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
        concept,
        latents[:half],
        min(denoising_loss(model, latents[:half], [prompt], seed) for prompt in (target, "")),
        Requests(noisy, t, wanted),
        seen,
        truth,
        squared(target_at, truth),
        contexts,
        words,
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
