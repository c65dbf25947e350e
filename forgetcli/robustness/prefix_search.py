"""Gradient search for token ids in front of a prompt, shared by `p4d` and `unlearndiffatk`.

Tokens are relaxed to vectors for the gradient and projected to tokens for the forward pass
(straight through): the loss is always that of a prompt that could be typed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context
from forgetcli.models.tokens import tokenise
from forgetcli.robustness.attacks import Case, unsupported
from forgetcli.robustness.conditioning import (
    Conditioning,
    embedded,
    embeddings,
    is_single,
    text_of,
)
from forgetcli.robustness.sampling import draw


def refuse(attack: str, model: LoadedModel) -> None:
    """Refuse models with several text encoders, whose token ids would have to be found together.

    Raises:
        ForgetError: attack.unsupported.
    """
    if not is_single(model):
        raise unsupported(attack, model, "it has several text encoders")


class Relaxation(ABC):
    """Tokens of a prefix as something with a gradient.

    Attributes:
        table: the embeddings of the tokens that may be used, (vocabulary, d).
        allowed: their ids, (vocabulary,).
    """

    def __init__(self, table: Tensor, allowed: Tensor) -> None:
        self.table = table
        self.allowed = allowed

    @property
    @abstractmethod
    def parameter(self) -> Tensor:
        """What the optimiser changes."""

    @abstractmethod
    def tokens(self) -> Tensor:
        """The nearest tokens, as rows of `table`: (k,)."""

    @abstractmethod
    def vectors(self) -> Tensor:
        """(k, d): forwards the embeddings of `tokens`, backwards those of the relaxation."""

    @abstractmethod
    def project(self) -> None:
        """Bring `parameter` back into its set after a step."""


class Nearest(Relaxation):
    """Free embeddings, projected to the nearest token's (PEZ, arXiv 2302.03668; used by P4D)."""

    def __init__(self, table: Tensor, allowed: Tensor, k: int, generator: torch.Generator) -> None:
        super().__init__(table, allowed)
        rows = torch.randint(len(table), (k,), generator=generator)
        self._free = table[rows].clone().requires_grad_()

    @property
    def parameter(self) -> Tensor:
        return self._free

    def tokens(self) -> Tensor:
        return torch.cdist(self._free.detach()[None], self.table[None])[0].argmin(1)

    def vectors(self) -> Tensor:
        return self._free + (self.table[self.tokens()] - self._free).detach()

    def project(self) -> None:
        """Every embedding is allowed between steps."""


class Simplex(Relaxation):
    """A distribution over the vocabulary for each token (UnlearnDiffAtk, arXiv 2310.11868)."""

    def __init__(self, table: Tensor, allowed: Tensor, k: int, generator: torch.Generator) -> None:
        super().__init__(table, allowed)
        start = torch.rand((k, len(table)), generator=generator).to(table)
        self._shares = projected_to_simplex(start).requires_grad_()

    @property
    def parameter(self) -> Tensor:
        return self._shares

    def tokens(self) -> Tensor:
        return self._shares.detach().argmax(1)

    def vectors(self) -> Tensor:
        soft = self._shares @ self.table
        return soft + (self.table[self.tokens()] - soft).detach()

    def project(self) -> None:
        with torch.no_grad():
            self._shares.copy_(projected_to_simplex(self._shares))


def projected_to_simplex(rows: Tensor) -> Tensor:
    """The nearest points with entries ≥ 0 that sum to 1 (Duchi and others 2008), row by row."""
    ordered, _ = rows.sort(1, descending=True)
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    last = (ordered > excess / counts).sum(1, keepdim=True)
    return (rows - excess.gather(1, last - 1) / last).clamp_min(0)


@dataclass(frozen=True)
class Search:
    """How long is searched, and how.

    Attributes:
        tokens: in the prefix.
        steps: of the optimiser.
        lr: its step length.
        signed: steps of the sign of the gradient instead of Adam's.
        check: steps between looks at an image; the search ends when the judge sees the concept.
    """

    tokens: int
    steps: int
    lr: float
    signed: bool
    check: int


def search(
    case: Case,
    prompt: str,
    seed: int,
    relaxation: Relaxation,
    loss_of: Callable[[Context], Tensor],
    settings: Search,
) -> Conditioning:
    """Token ids of a prefix and the prompt, with the smallest loss, or of the first image that
    shows the concept.

    Args:
        loss_of: the loss of a context (1, length, d); random, but with a gradient.
        seed: of the image that is looked at.
    """
    (encoder,) = case.model.encoders
    row = tokenise(case.model.tokenizer, [prompt]).ids[0]
    places = list(range(1, 1 + settings.tokens))
    length = len(row)

    def ids() -> Tensor:
        chosen = relaxation.allowed[relaxation.tokens().cpu()]
        return torch.cat([row[:1], chosen, row[1:]])[:length]

    parameter = relaxation.parameter
    optimiser = None if settings.signed else torch.optim.Adam([parameter], lr=settings.lr)
    best, smallest = ids(), float("inf")
    for step in range(settings.steps):
        with embedded(
            case.model, {encoder.component: places}, {encoder.component: relaxation.vectors()}
        ):
            loss = loss_of(case.model.encode(ids()[None]))
        if loss.item() < smallest:
            best, smallest = ids(), loss.item()
        (gradient,) = torch.autograd.grad(loss, [parameter])
        if optimiser is None:
            with torch.no_grad():
                parameter -= settings.lr * gradient.sign()
        else:
            parameter.grad = gradient
            optimiser.step()
        relaxation.project()
        case.budget.gradient_steps += 1
        case.observer.advance(loss=loss.item())
        if (step + 1) % settings.check == 0:
            for candidate in (best, ids()):
                if _shows(case, candidate, seed):
                    return _found(case, candidate)
    return _found(case, best)


def candidates(model: LoadedModel, forbidden: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(embeddings, ids) of the tokens that a prefix may have: no special ones, and none of the
    words in `forbidden`.
    """
    (encoder,) = model.encoders
    tokenizer = model.tokenizer_of(encoder)
    excluded = {row for text in forbidden for row in tokenizer([text]).input_ids[0]}
    excluded |= set(tokenizer([""]).input_ids[0]) | set(tokenizer.added_tokens_encoder.values())
    excluded |= {tokenizer.eos_token_id}
    table = embeddings(model)[encoder.component].float()
    size = min(len(table), max(tokenizer.get_vocab().values()) + 1)
    allowed = torch.tensor([i for i in range(size) if i not in excluded])
    return table[allowed.to(table.device)], allowed


def _shows(case: Case, ids: Tensor, seed: int) -> bool:
    with torch.no_grad():
        context = case.model.encode(ids[None])
    images, _ = draw(case.model, context, [seed], case.sampling)
    case.budget.images += 1
    return case.see(images)[0].seen


def _found(case: Case, ids: Tensor) -> Conditioning:
    return Conditioning(text_of(case.model, ids.tolist()), ids=ids)
