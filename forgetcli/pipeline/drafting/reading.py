"""How the unedited encoder reads words: how near to one another, and how far from no word."""

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
class Read:
    """How the encoder reads another word, beside the concept.

    Attributes:
        similarity: cosine of the two contexts, without what all the words that were read share.
        says: how far its context is from the template's without a word, relative to the concept's
            or to the upper quartile of all words, whichever is larger. A word that the model does
            not know changes its pictures little: as a target it would stand for what the model
            draws by default, which can be the concept.
    """

    similarity: float
    says: float


def contexts(model: LoadedModel, words: Sequence[str], template: str) -> Tensor:
    """What the denoiser reads of each word in `template`: the mean over the positions of its
    context, float64, shape (n, d).
    """
    import torch

    ids = tokenise(model.tokenizer, [fill(template, word) for word in words]).ids
    with torch.no_grad():
        # The first position is the same for every prompt.
        parts = [model.encode(part).hidden[:, 1:].double().mean(1) for part in ids.split(BATCH)]
    return torch.cat(parts).cpu()


def read_beside(
    model: LoadedModel, word: str, others: Sequence[str], template: str
) -> dict[str, Read]:
    """How each of `others` is read beside `word`."""
    rows = contexts(model, ["", word, *others], template)
    distances = (rows[1:] - rows[0]).norm(dim=1)
    unit = max(float(distances[0]), float(distances.quantile(0.75)), 1e-12)
    says = distances[1:] / unit
    centred = rows[1:] - rows[1:].mean(0)
    directions = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = directions[1:] @ directions[0]
    return {o: Read(*pair) for o, *pair in zip(others, cosines.tolist(), says.tolist())}
