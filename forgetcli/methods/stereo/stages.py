"""STEREO's two stages.

1. Search. In each round the denoiser is fine-tuned away from the concept (`Teacher`), and concept
   inversion learns a word through it that brings the concept back. The next round starts from that
   denoiser, and erases that word.
2. Erase. The denoiser is fine-tuned at the concept's prompts and at all words that were found, all
   at once (`Composition`).

Srivatsan et al., STEREO (arXiv 2408.16807).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.adversarial_rounds import Attack, Drift, Target
from forgetcli.editing.finetuning import FreshImages, Images, Student, Teacher, descend, encoded
from forgetcli.editing.inversion import PROMPTS
from forgetcli.methods.stereo.subjects import Composition, NoisedImages, Subjects
from forgetcli.models.base import Context, LoadedModel
from forgetcli.progress import Observer

Changes = dict[str, Tensor]


@dataclass(frozen=True)
class Search:
    """The first stage.

    Attributes:
        rounds: of fine-tuning and inversion.
        steps, lr: of the fine-tuning of a round.
        eta: η of its teacher. 1 leads to the prediction for the empty prompt.
        budget, budget_batch, budget_lr: of an inversion; see `invert_token`.
    """

    rounds: int
    steps: int
    lr: float
    eta: float
    budget: int
    budget_batch: int
    budget_lr: float


@dataclass(frozen=True)
class Erase:
    """The second stage.

    Attributes:
        steps, lr: of the fine-tuning.
        attract, repel: a and b of `Composition`.
    """

    steps: int
    lr: float
    attract: float
    repel: float


@dataclass(frozen=True)
class Training:
    """What both stages need to train the denoiser.

    Attributes:
        names: the parameters that are trained.
        targets: the concepts, with images of each.
        batch: images per step.
        fresh: settings of `FreshImages`; None: noised images of the concepts, generated once.
    """

    model: LoadedModel
    names: list[str]
    targets: list[Target]
    batch: int
    generator: torch.Generator
    observer: Observer
    fresh: Any = None

    def run(
        self, teacher: Teacher, owner: Tensor, steps: int, lr: float
    ) -> tuple[Changes, list[float]]:
        """The change of every trained parameter from the model as it is now, and the losses.

        Args:
            owner: the number of the concept of each row of the teacher's concepts.
        """
        student = Student(self.model, self.names)
        images: Images = NoisedImages(self.model, [each.latents for each in self.targets], owner)
        if self.fresh is not None:
            images = FreshImages(student.predict, self.fresh)
        losses = descend(
            student,
            images,
            teacher,
            steps=steps,
            lr=lr,
            batch=self.batch,
            generator=self.generator,
            observer=self.observer,
        )
        return student.trained(), losses


def search(
    training: Training, settings: Search, subjects: Subjects, drift: Drift
) -> tuple[list[list[Context]], list[Attack], list[float]]:
    """The first stage, from the model as it is now.

    Returns:
        for each round, each concept's word in the prompts of the inversion; the attacks; the
        losses by step.
    """
    model = training.model
    base = {name: model.denoiser.get_parameter(name).detach().float() for name in training.names}
    total = {name: torch.zeros_like(W) for name, W in base.items()}
    weights: dict[tuple[str, str], Tensor] = {}
    current, found = subjects, list[list[Context]]()
    attacks: list[Attack] = []
    losses: list[float] = []
    for number in range(1, settings.rounds + 1):
        with model.weights(weights):
            teacher = Teacher(
                model, current.contexts, current.contexts, model.unconditional(), settings.eta
            )
            changes, more = training.run(teacher, current.owner, settings.steps, settings.lr)
        losses += more
        total = {name: total[name] + change for name, change in changes.items()}
        weights = {(model.DENOISER, name): W + total[name] for name, W in base.items()}
        moved = drift.under(weights)
        words = []
        for target in training.targets:
            token, recovered = target.attack(
                weights,
                number,
                steps=settings.budget,
                batch=settings.budget_batch,
                lr=settings.budget_lr,
                observer=training.observer,
            )
            with token.inserted(model), torch.no_grad():
                words.append(encoded(model, [token.prompt(template) for template in PROMPTS]))
            attacks.append(Attack(number, target.concept, recovered, moved))
            training.observer.note(
                f"round {number}: inversion recovers {min(max(recovered, 0.0), 1.0):.0%} of "
                f"'{target.concept}'"
            )
        found.append(words)
        current = subjects.named(words)
    return found, attacks, losses


def erase(
    training: Training,
    settings: Erase,
    subjects: Subjects,
    found: Sequence[Sequence[Context]],
) -> tuple[Changes, list[float]]:
    """The second stage. The model as it is now is the teacher.

    Args:
        found: the words of the first stage.
    """
    model = training.model
    every = Subjects.cat([subjects, *(subjects.named(words) for words in found)])
    with torch.no_grad():
        plain = encoded(model, [target.concept for target in training.targets])
    negatives = tuple(
        Context.cat([plain[number : number + 1], *(words[number][:1] for words in found)])
        for number in range(len(training.targets))
    )
    teacher = Composition(
        model,
        every.contexts,
        every.anchors,
        model.unconditional(),
        settings.repel,
        settings.attract,
        negatives,
        every.owner,
    )
    return training.run(teacher, every.owner, settings.steps, settings.lr)
