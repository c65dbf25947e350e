"""How near the unedited encoder reads words to one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forgetcli.models.tokens import tokenise
from forgetcli.recipe.model import fill

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.models.base import LoadedModel

BATCH = 64  # prompts encoded at a time


def contexts(model: LoadedModel, words: Sequence[str], template: str) -> Tensor:
    """What the denoiser reads of each word, as a direction: the mean over the positions of its
    context in `template`, without what all the words share, float64, shape (n, d), unit rows.
    """
    import torch

    ids = tokenise(model.tokenizer, [fill(template, word) for word in words]).ids
    with torch.no_grad():
        # The first position is the same for every prompt.
        parts = [model.encode(part).hidden[:, 1:].double().mean(1) for part in ids.split(BATCH)]
    rows = torch.cat(parts).cpu()
    rows = rows - rows.mean(0)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def similarities(
    model: LoadedModel, word: str, others: Sequence[str], template: str
) -> dict[str, float]:
    """Cosines between a word's context and those of others, from −1 to 1."""
    directions = contexts(model, [word, *others], template)
    return dict(zip(others, (directions[1:] @ directions[0]).tolist()))
