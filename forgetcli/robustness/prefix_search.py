"""Gradient search for token ids in front of a prompt, shared by `p4d` and `unlearndiffatk`.

The search relaxes tokens to vectors, which have gradients, and projects them to tokens for the
forward pass (straight-through estimator). The loss is therefore always the loss of a prompt that a
user could type.
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
from forgetcli.robustness.attacks import Attempt, Case, unsupported
from forgetcli.robustness.conditioning import (
    Conditioning,
    embedded,
    embeddings,
    encode,
    has_single_encoder,
    text_of,
)
from forgetcli.robustness.sampling import sample_images


def refuse_several_encoders(attack: str, model: LoadedModel) -> None:
    """Refuse models with several text encoders: their token ids would have to be searched jointly.

    Raises:
        ForgetError: attack.unsupported.
    """
    if not has_single_encoder(model):
        raise unsupported(attack, model, "it has several text encoders")


def attempt(case: Case, conditioning: Conditioning, seed: int) -> Attempt:
    """The attempt with the tokens that a search found: one image."""
    context = encode(case.model, conditioning)
    images, _ = sample_images(case.model, context, [seed], case.sampling)
    case.budget.images += 1
    return Attempt(conditioning.prompt, seed, (images[0],), found=conditioning)


class Relaxation(ABC):
    """The k tokens of a prefix, relaxed to a parameter that has a gradient.

    Attributes:
        table: the embeddings of the allowed tokens, shape (vocabulary, d).
        allowed: the ids of the allowed tokens, shape (vocabulary,).
    """

    def __init__(self, table: Tensor, allowed: Tensor) -> None:
        self.table = table
        self.allowed = allowed

    @property
    @abstractmethod
    def parameter(self) -> Tensor:
        """The tensor that the optimiser changes."""

    @abstractmethod
    def tokens(self) -> Tensor:
        """The nearest tokens, as row numbers of `table`, shape (k,)."""

    @abstractmethod
    def vectors(self) -> Tensor:
        """The embeddings of `tokens`, shape (k, d). Gradients pass to the relaxed embeddings."""

    @abstractmethod
    def project(self) -> None:
        """Project `parameter` onto its feasible set after a step."""


class Nearest(Relaxation):
    """Free embeddings, projected to the nearest token's embedding (PEZ, arXiv 2302.03668; as in
    P4D).
    """

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
        """Do nothing: every embedding is feasible."""


class Simplex(Relaxation):
    """A distribution over the vocabulary for each token (UnlearnDiffAtk, arXiv 2310.11868)."""

    def __init__(self, table: Tensor, allowed: Tensor, k: int, generator: torch.Generator) -> None:
        super().__init__(table, allowed)
        start = torch.rand((k, len(table)), generator=generator).to(table)
        self._distributions = projected_to_simplex(start).requires_grad_()

    @property
    def parameter(self) -> Tensor:
        return self._distributions

    def tokens(self) -> Tensor:
        return self._distributions.detach().argmax(1)

    def vectors(self) -> Tensor:
        mean = self._distributions @ self.table
        return mean + (self.table[self.tokens()] - mean).detach()

    def project(self) -> None:
        with torch.no_grad():
            self._distributions.copy_(projected_to_simplex(self._distributions))


def projected_to_simplex(rows: Tensor) -> Tensor:
    """Project each row onto the simplex of entries ≥ 0 that sum to 1 (Duchi et al. 2008)."""
    ordered, _ = rows.sort(1, descending=True)
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    last = (ordered > excess / counts).sum(1, keepdim=True)
    return (rows - excess.gather(1, last - 1) / last).clamp_min(0)


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Attributes:
        tokens: the number of tokens in the prefix.
        steps: the largest number of optimisation steps.
        lr: the learning rate.
        signed: follow the sign of the gradient instead of using Adam.
        check: steps between checks. A check generates an image, and the search ends if the judge
            sees the concept in it.
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
    """Search for a prefix in front of the prompt.

    Args:
        seed: the seed of the images at checks.
        loss_of: the loss of a context (1, length, d). It may be random, but must have a gradient.
    Returns:
        token ids of prefix and prompt. Their image showed the concept at a check, or else their
        loss was the smallest.
    """
    (encoder,) = case.model.encoders
    row = tokenise(case.model.tokenizer, [prompt]).ids[0]
    positions = list(range(1, 1 + settings.tokens))
    length = len(row)

    def ids() -> Tensor:
        prefix = relaxation.allowed[relaxation.tokens().cpu()]
        return torch.cat([row[:1], prefix, row[1:]])[:length]

    parameter = relaxation.parameter
    optimiser = None if settings.signed else torch.optim.Adam([parameter], lr=settings.lr)
    best = ids()
    smallest_loss = float("inf")
    for step in range(settings.steps):
        with embedded(
            case.model, {encoder.component: positions}, {encoder.component: relaxation.vectors()}
        ):
            loss = loss_of(case.model.encode(ids()[None]))
        if loss.item() < smallest_loss:
            best = ids()
            smallest_loss = loss.item()
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
                if _shows_concept(case, candidate, seed):
                    return _conditioning(case, candidate)
    return _conditioning(case, best)


def allowed_tokens(model: LoadedModel, forbidden: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The embeddings (vocabulary, d) and ids (vocabulary,) of the tokens that a prefix may have.

    Special tokens and the tokens of the words in `forbidden` are excluded.
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


def _shows_concept(case: Case, ids: Tensor, seed: int) -> bool:
    with torch.no_grad():
        context = case.model.encode(ids[None])
    images, _ = sample_images(case.model, context, [seed], case.sampling)
    case.budget.images += 1
    return case.see(images)[0].seen


def _conditioning(case: Case, ids: Tensor) -> Conditioning:
    return Conditioning(text_of(case.model, ids.tolist()), ids=ids)
