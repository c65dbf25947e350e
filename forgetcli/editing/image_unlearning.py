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

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.finetuning import Student, step, trained_names
from forgetcli.editing.image_requests import (
    Kept,
    Weights,
    drawn,
    squared,
    subject,
    unrelated_contexts,
)
from forgetcli.editing.task import Task
from forgetcli.editing.unlearning_sizes import KEPT, PROMPTED, REPLAYED, UNRELATED, WORDS
from forgetcli.models.base import Context, LoadedModel
from forgetcli.progress import Observer


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
