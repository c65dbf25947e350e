"""Fine-tuning the denoiser against concept inversion, on top of a closed form.

A few learned words attack while the denoiser is trained: in every step each word takes one step of
concept inversion (`forgetcli.editing.inversion`) against the denoiser as it is, and the denoiser
one step towards

    min over θ of  ‖ε_θ(x_t, c_adv) − ε(x_t, c*)‖² + keep · ‖ε_θ(x_t', c_p) − ε(x_t', c_p)‖²

with x_t of images of the concept, c_adv the contexts of the words and, through the unedited text
encoder, of the concept prompts, c* the target's context, x_t' of images of preserve prompts c_p,
and ε the unedited model. The words begin again now and then, at the concept, at the target, at the
vocabulary's mean or at a random word.

The alternation of attack and defence is that of Srivatsan et al., STEREO (arXiv 2408.16807); here
both advance together, so that one run of the denoiser serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.editing.check import spread
from forgetcli.editing.finetuning import Student, trainable
from forgetcli.editing.inversion import (
    PROMPTS,
    borrowed_word,
    concept_latents,
    inserted,
    prediction_target,
    tokens_of,
)
from forgetcli.editing.task import Task
from forgetcli.errors import EditError
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Observer

WORDS = 6  # that attack at the same time
NAMED = 2  # images per step with a concept prompt through the unedited text encoder
KEPT = 8  # images per step of preserve prompts
NOISY = 256  # noisy images of each kind, drawn once
KEPT_PROMPTS = 128
# Steps between two restarts of a word.
RESTART = 15
ATTACK_LR = 0.1  # relative to the embeddings' root mean square, as in `invert_token`
JITTER = 0.3  # noise on a restarted word, likewise

Weights = Mapping[tuple[str, str], Tensor]


def train(
    model: LoadedModel,
    task: Task,
    settings: Any,
    encoder: Weights,
    start: Weights,
    observer: Observer,
) -> tuple[dict[str, Tensor], list[float]]:
    """The change of every trained weight beyond `start`, float32, by name, and the loss by step.

    All weights of the denoiser's linear and convolution layers are trained, no biases.

    Args:
        settings: `finetune` (steps), `finetune_lr`, `keep`, `images`, `guidance`.
        encoder: new weights of the text encoders; empty if they are not edited.
        start: the denoiser's new weights that the training starts from.
    Raises:
        EditError: edit.diverged: the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(task.seed)
    concepts = [
        Rows.of_concept(model, pairs, settings, task.seed + 211 * i, observer)
        for i, pairs in enumerate(task.concepts or (task.pairs,))
    ]
    kept = Rows.of_prompts(
        model, spread(task.preserve, KEPT_PROMPTS), settings, task.seed, observer
    )
    losses: list[float] = []
    with model.weights({**encoder, **start}):
        contexts = encoded(model, kept.prompts)
        words = Words(model, [rows.names for rows in concepts], generator)
        names = [name for name in trainable(model.denoiser, "all") if name.endswith(".weight")]
        student = Student(model, names)
        optimiser = torch.optim.Adam(student.changes.values(), lr=settings.finetune_lr)
        observer.stage("fine-tuning", settings.finetune)
        for step in range(settings.finetune):
            attack, defence = words.predictions(student, concepts, generator)
            rows = torch.randint(len(kept.noisy), (KEPT,), generator=generator)
            found = student.predict(kept.noisy[rows], kept.t[rows], contexts[kept.prompt[rows]])
            loss = defence + settings.keep * F.mse_loss(found.float(), kept.wanted[rows])
            losses.append(loss.item())
            if not torch.isfinite(loss):
                raise EditError(
                    "edit.diverged",
                    "the fine-tuning's loss is no longer a finite number",
                    "lower [robust] finetune_lr",
                )
            slopes = words.slopes(attack)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            words.advance(slopes)
            if step % RESTART == RESTART - 1:
                words.restart()
            observer.advance(loss=losses[-1])
    return {name: change.detach() for name, change in student.changes.items()}, losses


def encoded(model: LoadedModel, prompts: Sequence[str]) -> Context:
    """The prompts' contexts with the weights that the model has now."""
    with torch.no_grad():
        parts = tokenise(model.tokenizer, prompts).split(64)
        return Context.cat([model.encode(part.ids) for part in parts])


@dataclass(frozen=True)
class Rows:
    """Noisy images of the unedited model and what is to be predicted for them.

    Attributes:
        prompts: of the images.
        prompt: the number of each noisy image's prompt, shape (n,).
        noisy, t: x_t, (n, c, h, w), and t, (n,).
        true: the prediction that a perfect denoiser would make, (n, c, h, w).
        wanted: the unedited model's prediction for the target prompt, or for the image's own.
        own: the unedited encoder's contexts of the prompts.
        names: a concept's name and its target, for the words to start at.
    """

    prompts: list[str]
    prompt: Tensor
    noisy: Tensor
    t: Tensor
    true: Tensor
    wanted: Tensor
    own: Context
    names: tuple[str, str] = ("", "")

    @staticmethod
    def of_concept(
        model: LoadedModel,
        pairs: Sequence[tuple[str, str]],
        settings: Any,
        seed: int,
        observer: Observer,
    ) -> Rows:
        """Images of a concept, to be predicted as its target."""
        named = [pairs[i % len(pairs)] for i in range(settings.images)]
        return Rows._of(model, named, settings, seed, observer, names=pairs[0])

    @staticmethod
    def of_prompts(
        model: LoadedModel, prompts: Sequence[str], settings: Any, seed: int, observer: Observer
    ) -> Rows:
        """Images of prompts, to be predicted as they are."""
        return Rows._of(model, [(p, p) for p in prompts], settings, seed, observer)

    @staticmethod
    @torch.no_grad()
    def _of(
        model: LoadedModel,
        pairs: Sequence[tuple[str, str]],
        settings: Any,
        seed: int,
        observer: Observer,
        names: tuple[str, str] = ("", ""),
    ) -> Rows:
        prompts = [prompt for prompt, _ in pairs]
        latents = concept_latents(
            model, prompts, guidance=settings.guidance, seed=seed, observer=observer, steps=10
        )
        targets = encoded(model, [target for _, target in pairs])
        generator = torch.Generator().manual_seed(seed)
        scheduler = model.sampler(1)
        rows = torch.randint(len(latents), (NOISY,), generator=generator)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        last = scheduler.config.num_train_timesteps
        t = torch.randint(last, (NOISY,), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        wanted = torch.cat(
            [
                model.denoise(noisy[part], t[part], targets[rows[part]]).float()
                for part in torch.arange(NOISY).split(32)
            ]
        )
        true = prediction_target(scheduler, clean, noise, t).float()
        return Rows(prompts, rows, noisy, t, true, wanted, encoded(model, prompts), names)


class Words:
    """Learned words that attack together, word i the concept i modulo their number.

    Attributes:
        vectors: text encoder's component → embeddings, float32, shape (words, d), require grad.
    """

    def __init__(
        self, model: LoadedModel, names: Sequence[tuple[str, str]], generator: torch.Generator
    ) -> None:
        self.model = model
        self.names = names
        self.generator = generator
        self.count = max(WORDS, len(names))
        self.word = borrowed_word(model, PROMPTS)
        prompts = [template.replace("{}", self.word) for template in PROMPTS]
        self.ids = tokenise(model.tokenizer, prompts).ids
        self.tables = {
            encoder.component: getattr(model, encoder.component)
            .get_input_embeddings()
            .weight.detach()
            .float()
            for encoder in model.encoders
        }
        self.scales = {name: float(W.square().mean().sqrt()) for name, W in self.tables.items()}
        self.vectors = {
            name: torch.stack([self._fresh(name, i) for i in range(self.count)]).requires_grad_()
            for name in self.tables
        }
        self.optimiser = torch.optim.Adam(
            [
                {"params": [vectors], "lr": ATTACK_LR * self.scales[name]}
                for name, vectors in self.vectors.items()
            ]
        )

    def _fresh(self, component: str, number: int) -> Tensor:
        """Where a word begins: the concept, the target, the mean or a random token; with noise."""
        table = self.tables[component]
        concept, target = self.names[number % len(self.names)]
        kind = int(torch.randint(4, (1,), generator=self.generator))
        one = torch.randint(len(table), (1,), generator=self.generator).tolist()
        starts = (
            tokens_of(self.model, concept)[component],
            tokens_of(self.model, target)[component],
            slice(None),
            one,
        )
        noise = torch.randn(table.shape[1], generator=self.generator).to(table)
        return table[starts[kind]].mean(0) + JITTER * self.scales[component] * noise

    def restart(self) -> None:
        """One word begins again."""
        number = int(torch.randint(self.count, (1,), generator=self.generator))
        with torch.no_grad():
            for name, vectors in self.vectors.items():
                vectors[number] = self._fresh(name, number)
                for moments in self.optimiser.state[vectors].values():
                    if moments.shape == vectors.shape:
                        moments[number] = 0

    def predictions(
        self, student: Student, concepts: Sequence[Rows], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The attack's loss, for the words, and the defence's, for the weights."""
        # One noisy image for every word, and some with a concept prompt as the unedited encoder
        # reads it.
        owners = [i % len(concepts) for i in range(self.count)]
        owners += torch.randint(len(concepts), (NAMED,), generator=generator).tolist()
        rows = torch.randint(NOISY, (len(owners),), generator=generator).tolist()
        prompt = torch.randint(len(self.ids), (self.count,), generator=generator)
        with inserted(self.model, self.word, {k: v[:, None] for k, v in self.vectors.items()}):
            attacked = self.model.encode(self.ids[prompt])
        named = [
            concepts[owner].own[[int(concepts[owner].prompt[row])]]
            for owner, row in list(zip(owners, rows))[self.count :]
        ]

        def stacked(values: str) -> Tensor:
            return torch.stack([getattr(concepts[o], values)[r] for o, r in zip(owners, rows)])

        found = student.predict(
            stacked("noisy"), stacked("t"), Context.cat([attacked, *named])
        ).float()
        attack = F.mse_loss(found[: self.count], stacked("true")[: self.count])
        return attack, F.mse_loss(found, stacked("wanted"))

    def slopes(self, loss: Tensor) -> list[Tensor]:
        """The gradients of the attack's loss. The graph is kept for the defence."""
        return list(torch.autograd.grad(loss, list(self.vectors.values()), retain_graph=True))

    def advance(self, slopes: Sequence[Tensor]) -> None:
        """One step of the attack."""
        for vector, gradient in zip(self.vectors.values(), slopes):
            vector.grad = gradient
        self.optimiser.step()
