"""Fine-tuning the denoiser away from concepts (ESD): the frozen network is the teacher of the
trained one.

The requested prediction at a noisy image x_t is

    ε(x_t, anchor) − η (ε(x_t, c) − ε(x_t, ∅))

with the unedited model's predictions and c the concept prompt. For a network that predicts v, the
same combination of v is the same target: its coefficients sum to 1, and at given x_t and t, v is an
affine function of ε.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from forgetcli.editing.edit import Edit, SiteReport
from forgetcli.errors import EditError
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tensors import read_tensor
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import NoisyBank, noisy_bank
from forgetcli.progress import Observer

BATCH = 64  # prompts encoded at a time


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


def trained_names(model: LoadedModel, train_method: str) -> list[str]:
    """`trainable` of a model's denoiser.

    Raises:
        EditError: edit.no-cross-attention: it has no such layers.
    """
    names = trainable(model.denoiser, train_method) if model.cross_attention else []
    if not names:
        raise EditError(
            "edit.no-cross-attention",
            "the denoiser has no cross-attention that could be trained",
            "use nullspace or hirm, which edit the text encoders, or uce, rece, speed, mace-cf, "
            "oce or dp, which edit the layers that read the prompt",
        )
    return names


def encoded(model: LoadedModel, prompts: Sequence[str]) -> Context:
    """The prompts' contexts.

    Raises:
        EditError: a prompt is too long.
    """
    parts = tokenise(model.tokenizer, prompts, strict=True).split(BATCH)
    return Context.cat([model.encode(part.ids) for part in parts])


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
        concepts = encoded(model, [concept for concept, _ in pairs])
        anchors = concepts
        if erase_from != "concept":
            anchors = encoded(model, [target for _, target in pairs])
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


class Trained(torch.nn.Module):
    """A network with a trained change added to some of its parameters.

    The network's own parameters are never written: the sums replace them only during a prediction.
    So the frozen and the trained model are one network in memory, an interrupted run leaves nothing
    to restore, and the changes are float32 whatever dtype the model runs in.

    Attributes:
        changes: parameter name → change, float32, requires grad.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        names: Sequence[str],
        run: Callable[..., Tensor],
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Args:
        names: the parameters that are trained.
        run: what is computed with the network.
        start: changes of some of them to start from, instead of zero.
        """
        super().__init__()
        self.network = network
        self.run = run
        self.changes = {
            name: torch.zeros_like(
                network.get_parameter(name), dtype=torch.float32, requires_grad=True
            )
            for name in names
        }
        for name, change in (start or {}).items():
            self.changes[name].data.copy_(change)

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(*inputs)

    def predict(self, *inputs: Any) -> Tensor:
        """`run` with the changes in place."""
        return self.predict_each([inputs])[0]

    def predict_each(self, batches: Sequence[tuple[Any, ...]]) -> list[Tensor]:
        """`predict` for several batches, whose weights are added up once."""
        weights = {name: self.network.get_parameter(name) for name in self.changes}
        sums = {
            f"network.{name}": (W.float() + self.changes[name]).to(W.dtype)
            for name, W in weights.items()
        }
        return [functional_call(self, sums, inputs) for inputs in batches]

    def trained(self) -> dict[str, Tensor]:
        """The changes, without gradients."""
        return {name: change.detach() for name, change in self.changes.items()}


class Student(Trained):
    """The denoiser with a trained change; see `Trained`."""

    def __init__(
        self,
        model: LoadedModel,
        names: Sequence[str],
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(model.denoiser, names, model.denoise, start)


class Images(Protocol):
    """Where the x_t of the training come from."""

    def sample(
        self, rows: Tensor, teacher: Teacher, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and what the teacher requests there, for these rows of its concepts."""
        ...


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
    names = trained_names(model, settings.train_method)
    teacher, student = (
        Teacher.of(model, pairs, settings.erase_from, settings.eta),
        Student(model, names),
    )
    images: Images
    if parameters.sample.model == "edited":
        images = FreshImages(student.predict, parameters.sample)
    elif parameters.sample.fresh:
        images = FreshImages(model.denoise, parameters.sample)
    else:
        concepts = [concept for concept, _ in pairs]
        images = BaseImages.of(model, concepts, parameters.sample, generator, observer)
    losses = descend(
        student,
        images,
        teacher,
        steps=settings.steps,
        lr=settings.lr,
        batch=settings.batch,
        generator=generator,
        observer=observer,
    )
    return student.trained(), losses


def descend(
    student: Student,
    images: Images,
    teacher: Teacher,
    *,
    steps: int,
    lr: float,
    batch: int,
    generator: torch.Generator,
    observer: Observer,
) -> list[float]:
    """Train the student to predict what the teacher requests; the loss by step.

    Args:
        lr: learning rate of Adam.
        batch: images per step.
    Raises:
        EditError: edit.diverged: the loss is no longer finite.
    """
    optimiser = torch.optim.Adam(student.changes.values(), lr=lr)
    losses: list[float] = []
    observer.stage("fine-tuning", steps)
    for _ in range(steps):
        rows = torch.randint(len(teacher.concepts.hidden), (batch,), generator=generator)
        noisy, t, wanted = images.sample(rows, teacher, generator)
        loss = F.mse_loss(student.predict(noisy, t, teacher.concepts[rows]).float(), wanted)
        step(optimiser, loss, losses, observer)
    return losses


def step(
    optimiser: torch.optim.Optimizer, loss: Tensor, losses: list[float], observer: Observer
) -> None:
    """One step down this loss, which is added to `losses`.

    Raises:
        EditError: edit.diverged: the loss is not finite.
    """
    losses.append(loss.item())
    if not torch.isfinite(loss):
        raise EditError(
            "edit.diverged",
            "the fine-tuning's loss is no longer a finite number",
            "lower the learning rate, lr",
        )
    optimiser.zero_grad()
    trained = [value for group in optimiser.param_groups for value in group["params"]]
    loss.backward(inputs=trained)
    optimiser.step()
    observer.advance(loss=losses[-1])


def edit_of(
    model: LoadedModel, changes: Mapping[str, Mapping[str, Tensor]], losses: Sequence[float]
) -> Edit:
    """The edit that adds trained changes to the weights.

    Args:
        changes: component → parameter → change. Sites of several components are reported with the
            component's name.
    """
    weights, reports = {}, []
    for component, trained in changes.items():
        for parameter, change in trained.items():
            # The file's weights: those in memory are rounded to the dtype that the model runs in.
            where = model.base.locate(component, parameter)[0]
            W = read_tensor(model.base.folder, where).double()
            delta = change.cpu().double()
            weights[component, parameter] = W + delta
            name = parameter.removesuffix(".weight")
            reports.append(
                SiteReport(
                    f"{component}.{name}" if len(changes) > 1 else name,
                    float(delta.norm() / W.norm().clamp_min(1e-300)),
                )
            )
    return Edit(weights, tuple(reports), tuple(losses))
