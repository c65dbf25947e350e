"""The result of an attack's search in a form that other models accept: token ids, embeddings of
learned words, or a whole context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from forgetcli.editing.inversion import LearnedToken, borrowed_word
from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context
from forgetcli.models.tokens import Tokenizers, tokenise


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of one image, before the text encoders encode it.

    Attributes:
        prompt: a prompt to show to people. With `vectors`, it has one {} for the learned word.
        ids: token ids that replace those of the prompt, int64, shape (length,); None: the prompt's.
        vectors: encoder component → the embedding of a learned word, float32, shape (d,).
        hidden: a whole context, shape (length, d). The denoiser gets it directly; nothing is
            encoded.
        pooled: the pooled embedding that belongs to `hidden`, shape (d',).
    """

    prompt: str
    ids: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    pooled: Tensor | None = None


def encode(model: LoadedModel, conditioning: Conditioning) -> Context:
    """Encode a conditioning with the model's own text encoders into a context of one row.

    Raises:
        ValueError: the conditioning does not fit the model: other widths or lengths.
    """
    prompt = conditioning.prompt
    if conditioning.hidden is not None:
        hidden = conditioning.hidden[None].to(model.device, model.dtype)
        if conditioning.pooled is None:
            return Context(hidden)
        return Context(hidden, conditioning.pooled[None].to(model.device, model.dtype))
    if conditioning.vectors:
        word = borrowed_word(model, [prompt])
        vectors = {name: vector.to(model.device) for name, vector in conditioning.vectors.items()}
        learned = LearnedToken(word, vectors)
        with learned.inserted(model), torch.no_grad():
            return model.encode(tokenise(model.tokenizer, [learned.prompt(prompt)]).ids)
    ids = conditioning.ids
    with torch.no_grad():
        return model.encode(tokenise(model.tokenizer, [prompt]).ids if ids is None else ids[None])


@contextmanager
def embedded(
    model: LoadedModel, positions: Mapping[str, Sequence[int]], values: Mapping[str, Tensor]
) -> Iterator[None]:
    """Replace token embeddings of the text encoders within a `with` block.

    Args:
        positions: encoder component → k positions, the same in every row.
        values: encoder component → the embeddings at these positions, shape (k, d) for all rows or
            (n, k, d). Gradients flow through them.
    """

    def replacing(columns: Sequence[int], vectors: Tensor) -> Any:
        def hook(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
            index = torch.tensor(columns, device=output.device)
            rows = vectors.expand(len(output), *vectors.shape[-2:]).to(output)
            return output.index_copy(1, index, rows[:, : len(columns)])

        return hook

    with ExitStack() as hooks:
        for component, vectors in values.items():
            layer = getattr(model, component).get_input_embeddings()
            handle = layer.register_forward_hook(replacing(positions[component], vectors))
            hooks.callback(handle.remove)
        yield


def embeddings(model: LoadedModel) -> dict[str, Tensor]:
    """The embeddings of all tokens: encoder component → shape (vocabulary, d)."""
    return {
        encoder.component: getattr(model, encoder.component).get_input_embeddings().weight.detach()
        for encoder in model.encoders
    }


def text_of(model: LoadedModel, ids: Sequence[int]) -> str:
    """The text of the first text encoder's token ids, to show to people."""
    tokenizer: Any = model.tokenizer_of(model.encoders[0])
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def has_single_encoder(model: LoadedModel) -> bool:
    """Whether the model has only one text encoder. Searches for token ids need that."""
    return not isinstance(model.tokenizer, Tokenizers)
