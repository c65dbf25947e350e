"""What an attack found, in a form that another model can be given: token ids, embeddings in the
place of some tokens, or a whole context.
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
    """What the denoiser is told, before it is encoded.

    Attributes:
        prompt: for people; with `vectors` it has one {} where the learned word stands.
        ids: int64, (length,): token ids that replace the prompt's. None: the prompt's own.
        vectors: encoder component → float32 (d,): the embedding of a learned word.
        hidden: (length, d): a whole context, read by the denoiser as it is. Nothing is encoded.
        pooled: (d',): the pooled embedding that belongs to `hidden`.
    """

    prompt: str
    ids: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    pooled: Tensor | None = None


def encode(model: LoadedModel, found: Conditioning) -> Context:
    """The context of one row, by the model's own text encoders.

    Raises:
        ValueError: the conditioning does not fit the model: other widths or lengths.
    """
    if found.hidden is not None:
        pooled = None if found.pooled is None else found.pooled[None].to(model.device, model.dtype)
        return Context(found.hidden[None].to(model.device, model.dtype), pooled)
    if found.vectors:
        word = borrowed_word(model, [found.prompt])
        vectors = {name: vector.to(model.device) for name, vector in found.vectors.items()}
        learned = LearnedToken(word, vectors)
        with learned.inserted(model), torch.no_grad():
            return model.encode(tokenise(model.tokenizer, [learned.prompt(found.prompt)]).ids)
    prompt_ids = tokenise(model.tokenizer, [found.prompt]).ids
    with torch.no_grad():
        return model.encode(prompt_ids if found.ids is None else found.ids[None])


@contextmanager
def embedded(
    model: LoadedModel, places: Mapping[str, Sequence[int]], values: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within a `with`, text encoders read `values` at `places` instead of their tokens' embeddings.

    Args:
        places: encoder component → k positions, the same in every row.
        values: encoder component → embeddings (k, d) for all rows, or (n, k, d). Gradients flow.
    """

    def replacing(positions: Sequence[int], vectors: Tensor) -> Any:
        def hook(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
            index = torch.tensor(positions, device=output.device)
            rows = vectors.expand(len(output), *vectors.shape[-2:]).to(output)
            return output.index_copy(1, index, rows[:, : len(positions)])

        return hook

    with ExitStack() as hooks:
        for component, vectors in values.items():
            layer = getattr(model, component).get_input_embeddings()
            handle = layer.register_forward_hook(replacing(places[component], vectors))
            hooks.callback(handle.remove)
        yield


def embeddings(model: LoadedModel) -> dict[str, Tensor]:
    """Encoder component → the embedding of every token, (vocabulary, d)."""
    return {
        encoder.component: getattr(model, encoder.component).get_input_embeddings().weight.detach()
        for encoder in model.encoders
    }


def text_of(model: LoadedModel, ids: Sequence[int]) -> str:
    """Token ids of the first text encoder as text, for people."""
    tokenizer: Any = model.tokenizer_of(model.encoders[0])
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def is_single(model: LoadedModel) -> bool:
    """Whether the model has one text encoder, as discrete searches need."""
    return not isinstance(model.tokenizer, Tokenizers)
