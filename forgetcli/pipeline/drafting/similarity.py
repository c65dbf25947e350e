"""Similarity of words for the unedited model's text encoders."""

from __future__ import annotations

from collections.abc import Sequence
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
        effect: distance of the word's context from the context of the template without a word. It
            is relative to the concept's distance or to the upper quartile of all words' distances,
            whichever is larger. A word that the model does not know changes its images little. As
            a target it would stand for what the model generates by default, which can be the
            concept.
    """

    cosine: float
    effect: float


def contexts(model: LoadedModel, words: Sequence[str], template: str) -> Tensor:
    """The denoiser's context for each word in `template`, averaged over the positions: float64,
    shape (n, d).
    """
    import torch

    ids = tokenise(model.tokenizer, [fill(template, word) for word in words]).ids
    with torch.no_grad():
        # The first position is the same for every prompt.
        parts = [model.encode(part).hidden[:, 1:].double().mean(1) for part in ids.split(BATCH)]
    return torch.cat(parts).cpu()


def compare(
    model: LoadedModel, word: str, others: Sequence[str], template: str
) -> dict[str, Similarity]:
    """Compare each of `others` with `word`, all of them in `template`."""
    rows = contexts(model, ["", word, *others], template)
    distances = (rows[1:] - rows[0]).norm(dim=1)
    unit = max(float(distances[0]), float(distances.quantile(0.75)), 1e-12)
    effects = distances[1:] / unit
    centred = rows[1:] - rows[1:].mean(0)
    directions = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = directions[1:] @ directions[0]
    return {
        other: Similarity(cosine, effect)
        for other, cosine, effect in zip(others, cosines.tolist(), effects.tolist())
    }
