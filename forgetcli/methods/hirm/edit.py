"""The algorithm of HiRM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.edit import Edit
from forgetcli.editing.finetuning import Trained, edit_of, step
from forgetcli.editing.pairs import Pairs
from forgetcli.editing.task import Task
from forgetcli.errors import EditError
from forgetcli.methods.hirm import Parameters, TrainSettings
from forgetcli.models.base import LoadedModel, TextEncoder
from forgetcli.progress import Observer

BATCH = 64  # prompts encoded at a time
PARTS = {"block": "", "attention": "self_attn.", "mlp": "mlp."}


def edit(model: LoadedModel, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights of the first block of every CLIP text encoder, all concepts trained together.
    Preserve prompts are not used.

    Raises:
        EditError: a prompt is too long, the model has no CLIP text encoder, or the loss is no
            longer finite.
    """
    encoders = [encoder for encoder in model.encoders if encoder.kind == "clip"]
    if not encoders:
        raise EditError(
            "edit.no-such-encoder",
            f"hirm edits CLIP text encoders, and {model.base.id} has none",
            "use uce, rece, speed, mace-cf, oce or dp, which edit the layers that read the prompt",
        )
    pairs = Pairs.of(model.tokenizer, task.pairs, parameters.train.positions)
    changes: dict[str, dict[str, Tensor]] = {}
    losses: list[list[float]] = []
    for number, encoder in enumerate(encoders):
        reader = Reader(model, encoder, parameters.train.weights)
        training = Misdirection(reader, pairs, parameters.train, task.seed + number)
        losses.append(training.run(observer))
        changes[encoder.component] = training.student.trained()
    means = [sum(each) / len(each) for each in zip(*losses, strict=True)]
    return edit_of(model, changes, means)


class Reader:
    """One text encoder: its first block's weights, and its last block's representation.

    Attributes:
        names: the parameters of the first block's linear layers that are trained.
        last: the last block that the denoiser reads.
    """

    def __init__(self, model: LoadedModel, encoder: TextEncoder, weights: str) -> None:
        self.model = model
        self.encoder = encoder
        self.network: Any = getattr(model, encoder.component)
        sites = model.sites_of(encoder)
        first, last = (
            sites[number].path.removesuffix(".mlp.fc2") for number in (min(sites), max(sites))
        )
        self.last = self.network.get_submodule(last)
        self.names = [
            f"{first}.{name}.weight"
            for name, module in self.network.get_submodule(first).named_modules()
            if isinstance(module, torch.nn.Linear) and name.startswith(PARTS[weights])
        ]

    def read(self, ids: Tensor) -> Tensor:
        """h of these prompts, shape (n, length, d), float32, with the weights as they are.

        Args:
            ids: as of all text encoders of the model, shape (n, total length).
        """
        found: list[Tensor] = []

        def catch(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        handle = self.last.register_forward_hook(catch)
        try:
            self.model.encoder_output(self.encoder, ids)
        finally:
            handle.remove()
        return found[-1].float()


class Misdirection:
    """The training of one text encoder.

    Attributes:
        goals: c·g, shape (n, length, d), or (1, length, d) where it is the same for all prompts.
        counted: bool, shape (n, length): the positions in the loss.
    """

    def __init__(self, reader: Reader, pairs: Pairs, settings: TrainSettings, seed: int) -> None:
        self.reader = reader
        self.pairs = pairs
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)
        own = pairs.of_encoder(reader.encoder.component)
        self.counted = own.movable[own.concepts.owner].to(reader.model.device)
        self.goals = settings.coefficient * self._directions()
        self.student = Trained(reader.network, reader.names, reader.read)

    @torch.no_grad()
    def _directions(self) -> Tensor:
        """g."""
        ids = self.pairs.targets.ids
        if self.settings.direction == "semantic":
            return torch.cat([self.reader.read(part) for part in ids.split(BATCH)])
        shape = self.reader.read(ids[:1]).shape
        drawn = torch.randn(shape, generator=self.generator)
        return (drawn / drawn.norm(dim=-1, keepdim=True)).to(self.reader.model.device)

    def loss(self, rows: Tensor) -> Tensor:
        """The mean over the counted positions of these concept prompts of ‖h − c·g‖²."""
        found = self.student.predict(self.pairs.concepts.ids[rows])
        goals = self.goals[rows] if len(self.goals) > 1 else self.goals
        squares = (found - goals).square().sum(-1)  # (n, length)
        counted = self.counted[rows]
        return (squares * counted).sum() / counted.sum().clamp_min(1)

    def run(self, observer: Observer) -> list[float]:
        """Train; the loss by step.

        Raises:
            EditError: edit.diverged: the loss is no longer finite.
        """
        settings, count = self.settings, len(self.pairs.concepts.prompts)
        optimiser = torch.optim.Adam(self.student.changes.values(), lr=settings.lr)
        losses: list[float] = []
        observer.stage(f"training {self.reader.encoder.component}", settings.steps)
        for _ in range(settings.steps):
            rows = torch.arange(count)
            if count > settings.batch:
                rows = torch.randperm(count, generator=self.generator)[: settings.batch]
            step(optimiser, self.loss(rows), losses, observer)
        return losses
