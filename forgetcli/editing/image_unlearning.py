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
that is trained against the latest attack alone forgets how to withstand the others. After the
training inversion attacks once more, with a new word and nothing trained against it; concepts that
it still brings back are trained again. The requested prediction is ESD's (arXiv 2303.07345, eq. 6)
with the target as anchor; concept inversion is that of Pham et al. (arXiv 2308.01508).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.adversarial_rounds import denoising_loss
from forgetcli.editing.finetuning import Student, step, trained_names
from forgetcli.editing.image_requests import (
    Kept,
    Subject,
    Weights,
    drawn,
    squared,
    subject,
    unrelated_contexts,
)
from forgetcli.editing.inversion import PROMPTS, invert_token
from forgetcli.editing.task import Task
from forgetcli.editing.unlearning_sizes import KEPT, PROMPTED, REPLAYED, UNRELATED, WORDS
from forgetcli.models.base import Context, LoadedModel
from forgetcli.progress import Observer

# Inversion whose loss ratio is below this has brought the concept back: it reached 1.02 to 1.13
# where the word then generates the concept. A larger ratio is no proof that no word does
# (docs/robustness.md).
BROUGHT_BACK = 1.2


@dataclass(frozen=True)
class Recall:
    """What concept inversion makes of the trained denoiser.

    Attributes:
        turn: of the training, from 1.
        concept: its first prompt.
        loss_ratio: the denoising loss of the learned word at images of the concept, by the unedited
            model's for the target's or the empty prompt.
    """

    turn: int
    concept: str
    loss_ratio: float

    @property
    def succeeded(self) -> bool:
        """Whether the word brings the concept back."""
        return self.loss_ratio < BROUGHT_BACK

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "loss_ratio": round(self.loss_ratio, 4)}


def unlearn(
    model: LoadedModel,
    task: Task,
    settings: Any,
    encoder: Weights,
    start: Mapping[str, Tensor],
    observer: Observer,
) -> tuple[dict[str, Tensor], list[float], list[Recall]]:
    """The change of every weight of the denoiser, float32, by name; the loss by step; what concept
    inversion makes of it.

    Args:
        settings: `finetune` (steps for each concept), `finetune_repeats` (how often they are
            repeated, at most, for concepts that inversion still brings back), `budget` and `batch`
            (steps of that inversion, and images in each), `finetune_lr`, `repel` (b), `keep`
            (weight of the images of preserve prompts), `guidance` (when images are generated).
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
    losses: list[float] = []
    recalls: list[Recall] = []
    with model.weights(encoder):
        for turn in range(1, 2 + settings.finetune_repeats):
            losses += lead_away(student, subjects, kept, unrelated, settings, generator, observer)
            if not settings.finetune_repeats:
                break
            found = [
                Recall(
                    turn,
                    each.concept,
                    loss_ratio(model, student, each, settings, task.seed + turn, observer),
                )
                for each in subjects
            ]
            recalls += found
            subjects = [each for each, recall in zip(subjects, found) if recall.succeeded]
            if not subjects:
                break
            names = ", ".join(f"'{each.concept}'" for each in subjects)
            more = "trained again" if turn <= settings.finetune_repeats else "not trained again"
            observer.note(f"inversion still brings back {names}: {more}")
    return student.trained(), losses, recalls


def lead_away(
    student: Student,
    subjects: Sequence[Subject],
    kept: Kept,
    unrelated: Context,
    settings: Any,
    generator: torch.Generator,
    observer: Observer,
) -> list[float]:
    """Train the student at images of the concepts in turn; the loss by step."""
    optimiser = torch.optim.Adam(student.changes.values(), lr=settings.finetune_lr)
    losses: list[float] = []
    steps = settings.finetune * len(subjects)
    observer.stage("fine-tuning", steps)
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
        words = concept.words.contexts()
        read = [concept.words.replayed(REPLAYED)]
        read.append(concept.prompts[drawn(len(concept.prompts.hidden), PROMPTED, generator)])
        read.append(unrelated[drawn(len(unrelated.hidden), UNRELATED, generator)])
        read.append(kept.contexts[kept.reads[others]])
        noisy = torch.cat([asked.noisy[rows], kept.requests.noisy[others]])
        t = torch.cat([asked.t[rows], kept.requests.t[others]])
        # The words apart: their own gradients then pass through no other rows.
        learned, predicted = student.predict_each(
            [
                (noisy[:WORDS], t[:WORDS], words),
                (noisy[WORDS:], t[WORDS:], Context.cat(read)),
            ]
        )
        learned, predicted = learned.float(), predicted.float()
        concept.words.follow(
            squared(learned, concept.truth[rows[:WORDS]]),
            concept.bars[rows[:WORDS]],
            number // len(subjects),
        )
        harmful = concept.words.harmful()
        if not harmful.any():
            learned = learned.detach()  # nothing is to be learned at them: the costly half is saved
        led, stays = torch.cat([learned, predicted[:-KEPT]]), predicted[-KEPT:]
        counts = torch.ones(len(led), device=led.device)
        counts[:WORDS] = harmful
        loss = (counts * squared(led, asked.wanted[rows])).mean() + settings.keep * squared(
            stays, kept.requests.wanted[others]
        ).mean()
        # The rate falls to zero over the second half, so that the words catch up.
        for group in optimiser.param_groups:
            group["lr"] = settings.finetune_lr * min(1.0, 2 * (1 - number / steps))
        step(optimiser, loss, losses, observer)
    return losses


def loss_ratio(
    model: LoadedModel,
    student: Student,
    concept: Subject,
    settings: Any,
    seed: int,
    observer: Observer,
) -> float:
    """How well a new word can explain plain images of the concept to the student; see `Recall`.

    The words of the training do not tell: some have become the target, whose loss is as small.
    """
    trained = {
        (model.DENOISER, name): model.denoiser.get_parameter(name).detach().float() + change
        for name, change in student.trained().items()
    }
    with model.weights(trained):
        word = invert_token(
            model,
            concept.plain,
            steps=settings.budget,
            batch=settings.batch,
            seed=seed,
            observer=observer,
        )
        with word.inserted(model):
            prompts = [word.prompt(template) for template in PROMPTS]
            loss = denoising_loss(model, concept.plain, prompts, seed)
    return loss / concept.bar
