"""Descriptions of text encoders, known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The last two names of the second linear layer of an MLP, by kind of text encoder.
MLP_OUTPUT = {"clip": ("mlp", "fc2"), "t5": ("DenseReluDense", "wo")}


@dataclass(frozen=True)
class TextEncoder:
    """One of a family's text encoders.

    Attributes:
        component: the folder of its weights.
        tokenizer: the folder of its tokenizer.
        kind: the architecture. CLIP is causal. T5 is not: every position attends to the whole
            prompt, padding included.
        loader: the encoder's class in transformers.
        length: the number of its token positions; None: the tokenizer's maximum.
        unread: the number of last blocks whose output the denoiser ignores. They are not sites.
        optional: whether copies of the model may leave it out.
    """

    component: str = "text_encoder"
    tokenizer: str = "tokenizer"
    kind: Literal["clip", "t5"] = "clip"
    loader: str = "CLIPTextModel"
    length: int | None = None
    unread: int = 0
    optional: bool = False

    @property
    def causal(self) -> bool:
        """Whether a position attends only to the positions up to it."""
        return self.kind == "clip"

    @property
    def has_start_token(self) -> bool:
        """Whether every prompt begins with the same token."""
        return self.kind == "clip"
