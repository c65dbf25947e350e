"""Fine-tuning the denoiser away from concepts (ESD): the frozen network is the teacher of the
trained one.

The requested prediction at a noisy image x_t is

    ε(x_t, anchor) − η (ε(x_t, c) − ε(x_t, ∅))

with the unedited model's predictions and c the concept prompt. For a network that predicts v, the
same combination of v is the same target: its coefficients sum to 1, and at given x_t and t, v is an
affine function of ε.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from forgetcli.errors import EditError
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import NoisyBank, noisy_bank
from forgetcli.progress import Observer


def trainable(denoiser: torch.nn.Module, train_method: str) -> list[str]:
    """Names of the parameters that a training method changes, in the network's order.

    As in the authors' current code: weights and biases of linear and convolution layers, not of
    normalisations.
    """
    chosen = {
        "esd-x": lambda parts: "attn2" in parts,
        "esd-x-strict": lambda parts: parts[-2:] in (["attn2", "to_k"], ["attn2", "to_v"]),
        "esd-u": lambda parts: "attn2" not in parts,
        "all": lambda parts: True,
    }[train_method]
    return [
        f"{name}.{own}"
        for name, module in denoiser.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and chosen(name.split("."))
        for own, _ in module.named_parameters(recurse=False)
    ]


@dataclass(frozen=True)
class Teacher:
    """The unedited model, which gives the requested predictions.

    Attributes:
        concepts, anchors: contexts, one row per pair.
        empty: context of the empty prompt, one row.
        eta: η.
    """

    model: LoadedModel
    concepts: Context
    anchors: Context
    empty: Context
    eta: float

    @staticmethod
    @torch.no_grad()
    def of(
        model: LoadedModel, pairs: Sequence[tuple[str, str]], erase_from: str, eta: float
    ) -> Teacher:
        def encoded(prompts: Sequence[str]) -> Context:
            return Context.cat(
                [
                    model.encode(part.ids)
                    for part in tokenise(model.tokenizer, prompts, strict=True).split(64)
                ]
            )

        concepts = encoded([concept for concept, _ in pairs])
        anchors = concepts if erase_from == "concept" else encoded([target for _, target in pairs])
        return Teacher(model, concepts, anchors, model.unconditional(), eta)

    @torch.no_grad()
    def wanted(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """ε(anchor) − η (ε(c) − ε(∅)) at x_t, (n, c, h, w), and t, (n,), for these rows of the
        pairs; float32.
        """
        asked = [self.anchors[rows], self.concepts[rows], self.empty.repeated(len(rows))][
            : 3 if self.eta else 1
        ]
        k = len(asked)
        anchor, *rest = (
            self.model.denoise(noisy.repeat(k, 1, 1, 1), t.repeat(k), Context.cat(asked))
            .float()
            .chunk(k)
        )
        return anchor - self.eta * (rest[0] - rest[1]) if rest else anchor


class Student(torch.nn.Module):
    """The denoiser with a trained change added to some of its parameters.

    The model's own parameters are never written: the sums replace them only during a prediction.
    So the frozen and the trained model are one network in memory, an interrupted run leaves nothing
    to restore, and the changes are float32 whatever dtype the model runs in.

    Attributes:
        changes: parameter name → change, float32, requires grad.
    """

    def __init__(self, model: LoadedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.denoiser = model.denoiser
        self.model = model
        self.changes = {
            name: torch.zeros_like(
                model.denoiser.get_parameter(name), dtype=torch.float32, requires_grad=True
            )
            for name in names
        }

    def forward(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        return self.model.denoise(noisy, t, context)

    def predict(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        weights = {name: self.denoiser.get_parameter(name) for name in self.changes}
        sums = {
            f"denoiser.{name}": (W.float() + self.changes[name]).to(W.dtype)
            for name, W in weights.items()
        }
        return functional_call(self, sums, (noisy, t, context))


@dataclass(frozen=True)
class BaseImages:
    """x_t from the unedited model's sampler runs, generated once, with the requested predictions.

    Attributes:
        bank: the noisy images.
        wanted: requested predictions, shape (prompts, steps, c, h, w).
        known: bool, shape (prompts, steps): which of `wanted` were computed.
    """

    bank: NoisyBank
    wanted: Tensor
    known: Tensor

    @staticmethod
    def of(
        model: LoadedModel,
        prompts: Sequence[str],
        settings: Any,
        generator: torch.Generator,
        observer: Observer,
    ) -> BaseImages:
        bank = noisy_bank(
            model,
            prompts,
            steps=settings.steps,
            guidance=settings.guidance,
            generator=generator,
            observer=observer,
        )
        wanted, known = (
            torch.zeros_like(bank.latents, dtype=torch.float32),
            torch.zeros(bank.latents.shape[:2], dtype=torch.bool),
        )
        return BaseImages(bank, wanted, known)

    def sample(
        self, rows: Tensor, teacher: Teacher, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and the requested prediction, at a random step of each row's run."""
        step = torch.randint(len(self.bank.timesteps), (len(rows),), generator=generator)
        noisy, t = (
            self.bank.latents[rows, step],
            self.bank.timesteps[step].to(self.bank.latents.device),
        )
        new = ~self.known[rows, step]
        if new.any():
            self.wanted[rows[new], step[new]] = teacher.wanted(noisy[new], t[new], rows[new])
            self.known[rows, step] = True
        return noisy, t, self.wanted[rows, step]


@dataclass(frozen=True)
class FreshImages:
    """x_t from a new sampler run in every training step, stopped at a random time.

    Attributes:
        predict: of the model that generates them: as trained so far, or unedited.
    """

    predict: Callable[[Tensor, Tensor, Context], Tensor]
    settings: Any

    @torch.no_grad()
    def sample(
        self, rows: Tensor, teacher: Teacher, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        model, n = teacher.model, len(rows)
        scheduler = model.sampler(self.settings.steps)
        stop = int(torch.randint(self.settings.steps, (1,), generator=generator))
        context = Context.cat([teacher.empty.repeated(n), teacher.concepts[rows]])  # 2n rows
        x = torch.randn((n, *model.latent_shape), generator=generator).to(model.device, model.dtype)
        for t in scheduler.timesteps[:stop]:
            without, with_ = self.predict(torch.cat([x, x]), t, context).chunk(2)
            x = scheduler.step(
                without + self.settings.guidance * (with_ - without), t, x
            ).prev_sample
        t = scheduler.timesteps[stop].expand(n).to(model.device)
        return x, t, teacher.wanted(x, t, rows)


def train(
    model: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    parameters: Any,
    seed: int,
    observer: Observer,
) -> tuple[dict[str, Tensor], list[float]]:
    """The change of every trained parameter, float32, by name, and the loss by step.

    Raises:
        EditError: a prompt is too long, the denoiser has no such layers, or the loss is no longer
            finite.
    """
    settings = parameters.train
    generator = torch.Generator().manual_seed(seed)
    names = trainable(model.denoiser, settings.train_method) if model.cross_attention else []
    if not names:
        raise EditError(
            "edit.no-cross-attention",
            "the denoiser has no cross-attention that could be trained",
            "use nullspace, which edits the text encoders, or uce, rece, speed or mace-cf, which "
            "edit the layers that read the prompt",
        )
    teacher, student = (
        Teacher.of(model, pairs, settings.erase_from, settings.eta),
        Student(model, names),
    )
    images: FreshImages | BaseImages
    if parameters.sample.model == "edited":
        images = FreshImages(student.predict, parameters.sample)
    elif parameters.sample.fresh:
        images = FreshImages(model.denoise, parameters.sample)
    else:
        concepts = [concept for concept, _ in pairs]
        images = BaseImages.of(model, concepts, parameters.sample, generator, observer)
    optimiser = torch.optim.Adam(student.changes.values(), lr=settings.lr)
    losses = []
    observer.stage("fine-tuning", settings.steps)
    for _ in range(settings.steps):
        rows = torch.randint(len(pairs), (settings.batch,), generator=generator)
        noisy, t, wanted = images.sample(rows, teacher, generator)
        loss = F.mse_loss(student.predict(noisy, t, teacher.concepts[rows]).float(), wanted)
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise EditError(
                "edit.diverged",
                "the fine-tuning's loss is no longer a finite number",
                "lower [train] lr",
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        observer.advance(loss=losses[-1])
    return {name: change.detach() for name, change in student.changes.items()}, losses
