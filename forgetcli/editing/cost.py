"""What a method asks of a model, for estimates before anything is loaded. No torch: recipes are
checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Runs of the model's networks that one edit needs.

    Attributes:
        encoded: prompts through the text encoder, each counted once. Prompts whose second moments
            are cached are included.
        predictions: predictions of the denoiser without gradients.
        descents: predictions of the denoiser with gradients.
        batch: how many of `descents` run at a time.
        moments: prompts of `encoded` that need not be encoded if their second moments are cached.
    """

    encoded: int = 0
    predictions: int = 0
    descents: int = 0
    batch: int = 0
    moments: int = 0
