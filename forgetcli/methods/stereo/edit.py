"""The algorithm of STEREO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forgetcli.editing.adversarial_rounds import Attack, Drift, Target
from forgetcli.editing.edit import Edit
from forgetcli.editing.finetuning import (
    FreshImages,
    Images,
    Student,
    Teacher,
    descend,
    edit_of,
    trained_names,
)
from forgetcli.editing.inversion import PROMPTS
from forgetcli.editing.task import Task
from forgetcli.methods.stereo import Parameters
from forgetcli.methods.stereo.subjects import Composition, NoisedImages, Subjects, encoded
from forgetcli.models.base import Context, LoadedModel
from forgetcli.progress import Observer

Changes = dict[str, Tensor]


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights of the denoiser, all concepts trained together. Preserve prompts only measure
    how far a round moves them.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or a loss is no longer
            finite.
    """
    names = trained_names(model, parameters.train.train_method)
    concepts = task.concepts or (task.pairs,)
    subjects = Subjects.of(model, concepts, parameters.erase.anchor)
    targets = [
        Target.of(model, pairs, parameters.search, task.seed + 101 * number, observer)
        for number, pairs in enumerate(concepts)
    ]
    generator = torch.Generator().manual_seed(task.seed)
    training = Training(model, parameters, names, targets, generator, observer)
    drift = Drift.of(model, task, observer)
    found, attacks, losses = search(training, subjects, drift)
    changes, last = erase(training, subjects, found)
    edited = edit_of(model, {model.DENOISER: changes}, [*losses, *last])
    return replace(edited, attacks=tuple(attack.as_dict() for attack in attacks))


@dataclass(frozen=True)
class Training:
    """What both stages need to train the denoiser.

    Attributes:
        names: the parameters that are trained.
        targets: the concepts, with images of each.
    """

    model: LoadedModel
    parameters: Parameters
    names: list[str]
    targets: list[Target]
    generator: torch.Generator
    observer: Observer

    def run(
        self, teacher: Teacher, owner: Tensor, steps: int, lr: float
    ) -> tuple[Changes, list[float]]:
        """The change of every trained parameter from where the model is now, and the losses.

        Args:
            owner: the number of the concept of each row of the teacher's concepts.
        """
        student, sample = Student(self.model, self.names), self.parameters.sample
        images: Images = NoisedImages(self.model, [each.latents for each in self.targets], owner)
        if sample.model == "edited":
            images = FreshImages(student.predict, sample)
        batch = self.parameters.train.batch
        losses = descend(
            student,
            images,
            teacher,
            steps=steps,
            lr=lr,
            batch=batch,
            generator=self.generator,
            observer=self.observer,
        )
        return student.trained(), losses


def search(
    training: Training, subjects: Subjects, drift: Drift
) -> tuple[list[list[Context]], list[Attack], list[float]]:
    """The first stage.

    Returns:
        for each round, each concept's word in the prompts of the inversion; the attacks; the
        losses by step.
    """
    model, settings = training.model, training.parameters.search
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
    training: Training, subjects: Subjects, found: Sequence[Sequence[Context]]
) -> tuple[Changes, list[float]]:
    """The second stage, from the unedited weights."""
    model, settings = training.model, training.parameters.erase
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
