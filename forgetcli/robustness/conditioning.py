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

from forgetcli.models.base import LoadedModel
from forgetcli.models.context import Context
from forgetcli.models.tokens import Tokenizers, tokenise

GAP = "{}"  # where learned tokens stand in a prompt


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told, before it is encoded.

    Attributes:
        prompt: for people; with `vectors` it has one {} where they stand.
        ids: int64, (length,): token ids that replace the prompt's. None: the prompt's own.
        vectors: encoder component → float32 (k, d): embeddings of k learned tokens.
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
        count = len(next(iter(found.vectors.values())))
        ids, places = with_gap(model, found.prompt, count)
        values = {name: part.to(model.device) for name, part in found.vectors.items()}
        with embedded(model, places, values):
            return model.encode(ids)
    ids = found.ids[None] if found.ids is not None else tokenise(model.tokenizer, [found.prompt]).ids
    return model.encode(ids)


def with_gap(model: LoadedModel, template: str, count: int) -> tuple[Tensor, dict[str, list[int]]]:
    """Token ids (1, length) of a template with one {}, which is replaced by `count` stand-ins, and
    the stand-ins' positions within each text encoder's own columns.

    What does not fit at the end is cut off, as the pipelines do.
    """
    before, _, after = template.partition(GAP)
    first, second = (tokenise(model.tokenizer, [part.strip()]) for part in (before, after))
    rows, places = [], {}
    for encoder in model.encoders:
        tokenizer = model.tokenizer_of(encoder)
        head, tail = (list(part.of(encoder.component).ids[0]) for part in (first, second))
        starts = 1 if encoder.kind == "clip" else 0  # T5 has no start token
        stop = _content_end(head, tokenizer.eos_token_id)
        row = head[:stop] + [tail[starts]] * count + tail[starts:]
        rows.append(torch.stack(row[: len(head)]))
        places[encoder.component] = list(range(stop, min(stop + count, len(head))))
    return torch.cat(rows)[None], places


def _content_end(ids: Sequence[Tensor], end: int) -> int:
    return next((i for i, token in enumerate(ids) if int(token) == end), len(ids))


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
