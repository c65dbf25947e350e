"""Similarity of words for the unedited model's text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.models.tokens import tokenise
from forgetcli.recipe.model import fill

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.models.base import LoadedModel

BATCH = 64  # prompts encoded at a time


@dataclass(frozen=True)
class Similarity:
    """How a word compares with the concept.

    Attributes:
        cosine: cosine of the two words' contexts, after subtracting the mean over all compared
            words.
        effect: distance of the word's context from the context of the templates without a word. It
            is relative to the concept's distance or to the upper quartile of all words' distances,
            whichever is larger. A word that the model does not know changes its images little. As
            a target it would stand for what the model generates by default, which can be the
            concept.
    """

    cosine: float
    effect: float


def contexts(model: LoadedModel, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """The denoiser's context for each word, averaged over the templates and the positions: float64,
    shape (n, d).
    """
    import torch

    prompts = [fill(template, word) for word in words for template in templates]
    ids = tokenise(model.tokenizer, prompts).ids
    with torch.no_grad():
        # The first position is the same for every prompt. To the CPU first: MPS has no float64.
        parts = [
            model.encode(part).hidden[:, 1:].cpu().double().mean(1) for part in ids.split(BATCH)
        ]
    return torch.cat(parts).unflatten(0, (len(words), len(templates))).mean(1)


def compare(
    model: LoadedModel, word: str, others: Sequence[str], template: str
) -> dict[str, Similarity]:
    """Compare each of `others` with `word`, all of them in `template`."""
    return compare_each(model, [word], others, (template,))[word]


def compare_each(
    model: LoadedModel, words: Sequence[str], others: Sequence[str], templates: Sequence[str]
) -> dict[str, dict[str, Similarity]]:
    """Compare `others` with each of `words` by itself. `others` are encoded once."""
    rows = contexts(model, ["", *others, *words], templates)
    nothing, beside, own = rows[0], rows[1 : 1 + len(others)], rows[1 + len(others) :]
    return {
        word: dict(zip(others, _compared(nothing, row, beside), strict=True))
        for word, row in zip(words, own, strict=True)
    }


def _compared(nothing: Tensor, word: Tensor, others: Tensor) -> list[Similarity]:
    """Compare each row of `others`, shape (n, d), with the context of `word`, (d,)."""
    import torch

    rows = torch.cat([word[None], others])
    distances = (rows - nothing).norm(dim=1)
    unit = max(float(distances[0]), float(distances.quantile(0.75)), 1e-12)
    effects = distances[1:] / unit
    centred = rows - rows.mean(0)
    directions = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = directions[1:] @ directions[0]
    return [Similarity(*pair) for pair in zip(cosines.tolist(), effects.tolist(), strict=True)]


def nearest(similarities: Mapping[str, Similarity]) -> list[str]:
    """The compared words, the most similar first."""
    return sorted(similarities, key=lambda other: -similarities[other].cosine)
