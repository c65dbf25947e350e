"""Prompts as token ids, and the merging of positions that have the same key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from forgetcli.errors import EditError

if TYPE_CHECKING:
    from torch import Tensor


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that this package uses."""

    model_max_length: int
    eos_token_id: int

    def __call__(self, text: list[str], **options: Any) -> Any:
        """An object with ``input_ids``."""
        ...

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without the start and end tokens."""
        ...

    def num_special_tokens_to_add(self) -> int:
        """The number of start and end tokens."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Token → id."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The tokens with these ids."""
        ...

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token → id of the tokens that were added to the vocabulary."""
        ...


@dataclass(frozen=True)
class Segment:
    """The columns of a batch's token ids that one text encoder reads.

    Attributes:
        encoder: the text encoder's component; empty if the model has only one.
        start: the first column.
        stop: the end of the columns, exclusive.
        causal: whether each position attends only to itself and earlier positions.
    """

    encoder: str
    start: int
    stop: int
    causal: bool = True


@dataclass(frozen=True)
class TokenBatch:
    """Tokenised prompts, padded to the tokenizer's length. The ids for several text encoders are
    concatenated.

    In a causal encoder the key at a position depends only on the tokens up to that position.
    Positions with the same prefix therefore have the same key. They are merged by comparing token
    ids, not floats, so the merging is exact. In an encoder that is not causal, positions have the
    same key only if all tokens of their prompts are equal.

    Attributes:
        prompts: n prompts.
        ids: int64, shape (n, length).
        segments: the columns of each text encoder; if empty, all columns belong to one causal
            encoder.
    """

    prompts: tuple[str, ...]
    ids: Tensor
    segments: tuple[Segment, ...] = ()

    @property
    def parts(self) -> tuple[Segment, ...]:
        """`segments`; if it is empty, one segment with all columns."""
        return self.segments or (Segment("", 0, self.ids.shape[1]),)

    def __getitem__(self, rows: slice) -> TokenBatch:
        """Some of the prompts."""
        return TokenBatch(self.prompts[rows], self.ids[rows], self.segments)

    def of(self, encoder: str) -> TokenBatch:
        """The same prompts with the ids of one text encoder only."""
        if len(self.parts) == 1:
            return self
        (segment,) = [part for part in self.parts if part.encoder == encoder]
        return TokenBatch(
            prompts=self.prompts,
            ids=self.ids[:, segment.start : segment.stop],
            segments=(Segment(encoder, 0, segment.stop - segment.start, segment.causal),),
        )

    @cached_property
    def owner(self) -> Tensor:
        """For each position, the index of its distinct prefix: int64, shape (n, length)."""
        return self._merged[0]

    @cached_property
    def counts(self) -> Tensor:
        """The number of occurrences of each distinct prefix: int64, shape (distinct,)."""
        # Imported here: a model is inspected without torch.
        import torch

        return torch.bincount(self.owner.flatten(), minlength=len(self.first))

    @cached_property
    def first(self) -> Tensor:
        """Flat position (row·length + column) of each distinct prefix's first occurrence: int64,
        shape (distinct,).
        """
        return self._merged[1]

    @cached_property
    def _merged(self) -> tuple[Tensor, Tensor]:
        """`owner` and `first`."""
        # (index of a prefix, next token) → index of the prefix with this token appended.
        seen: dict[tuple[int, int], int] = {}
        # (start of the segment, tokens that all its positions attend to) → index of the empty
        # prefix. The indices of empty prefixes are negative.
        roots: dict[tuple[int, tuple[int, ...]], int] = {}
        owner: list[int] = []
        first: list[int] = []
        length = self.ids.shape[1]
        for row, tokens in enumerate(self.ids.tolist()):
            for part in self.parts:
                attended_tokens = () if part.causal else tuple(tokens[part.start : part.stop])
                prefix = roots.setdefault((part.start, attended_tokens), -1 - len(roots))
                for column in range(part.start, part.stop):
                    step = (prefix, tokens[column])
                    if step not in seen:
                        seen[step] = len(first)
                        first.append(row * length + column)
                    prefix = seen[step]
                    owner.append(prefix)
        # Imported here: a model is inspected without torch.
        import torch

        return torch.tensor(owner).reshape(self.ids.shape), torch.tensor(first)

    def merge(self, columns: Tensor) -> Tensor:
        """Reduce values at all positions (n, length, d) to one column per distinct prefix.

        Takes the value at a prefix's first occurrence. Returns shape (d, distinct).
        """
        return columns.flatten(0, 1)[self.first.to(columns.device)].T

    def mean(self, columns: Tensor) -> Tensor:
        """The mean over the occurrences of each distinct prefix, shape (d, distinct).

        Keys are equal at all occurrences of a prefix, but values may differ.
        """
        flat = columns.flatten(0, 1)  # (n·length, d)
        total = flat.new_zeros(len(self.first), flat.shape[1]).index_add_(
            0, self.owner.flatten(), flat
        )
        return (total / self.counts[:, None]).T

    def split(self, size: int) -> Iterator[TokenBatch]:
        """Batches of at most `size` prompts."""
        for start in range(0, len(self.prompts), size):
            yield self[start : start + size]


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of a model with several text encoders.

    Tokenizers with the same vocabulary can still differ: SDXL's second tokenizer pads with "!".

    Attributes:
        parts: the columns and the tokenizer of each text encoder.
        expands: whether textual inversions of several vectors are expanded; see `expanded`.
    """

    parts: tuple[tuple[Segment, Tokenizer], ...]
    expands: bool = True

    @staticmethod
    def of(
        encoders: Sequence[tuple[str, Tokenizer, int | None, bool]], expands: bool = True
    ) -> Tokenizers:
        """Combine (component, tokenizer, length, causal) of all text encoders.

        A length of None means the tokenizer's maximum.
        """
        parts = []
        start = 0
        for component, tokenizer, length, causal in encoders:
            stop = start + (length or tokenizer.model_max_length)
            parts.append((Segment(component, start, stop, causal), tokenizer))
            start = stop
        return Tokenizers(tuple(parts), expands)

    @property
    def eos_token_id(self) -> int:
        """The first tokenizer's end token."""
        return self.parts[0][1].eos_token_id

    def get_vocab(self) -> dict[str, int]:
        """The first tokenizer's vocabulary."""
        return self.parts[0][1].get_vocab()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token → id of the tokens that were added to the first tokenizer's vocabulary."""
        return self.parts[0][1].added_tokens_encoder

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The tokens of the first tokenizer with these ids."""
        return self.parts[0][1].convert_ids_to_tokens(ids)

    def columns(self, encoder: str, ids: Tensor) -> Tensor:
        """The token ids that one text encoder reads, shape (n, the encoder's length)."""
        (columns,) = [segment for segment, _ in self.parts if segment.encoder == encoder]
        return ids[:, columns.start : columns.stop]


def tokenise(
    tokenizer: Tokenizer | Tokenizers,
    prompts: Sequence[str],
    *,
    strict: bool = False,
    length: int | None = None,
    expands: bool = True,
) -> TokenBatch:
    """Tokenise prompts as the model's pipeline does, padded to the model's length.

    Args:
        tokenizer: one tokenizer, or those of several text encoders.
        strict: refuse prompts that are too long, because truncated tokens would not be edited.
        length: default: the tokenizer's maximum.
        expands: whether to expand textual inversions of several vectors; see `expanded`.
    Raises:
        EditError: edit.prompt-too-long: a prompt has more than `length` tokens, and `strict` is
            set.
    """
    if isinstance(tokenizer, Tokenizers):
        ids = [
            tokenise(
                each,
                prompts,
                strict=strict,
                length=segment.stop - segment.start,
                expands=tokenizer.expands,
            ).ids
            for segment, each in tokenizer.parts
        ]
        segments = tuple(segment for segment, _ in tokenizer.parts)
        # Imported here: a model is inspected without torch.
        import torch

        return TokenBatch(tuple(prompts), torch.cat(ids, 1), segments)
    length = length or tokenizer.model_max_length
    texts = [expanded(tokenizer, prompt) for prompt in prompts] if expands else list(prompts)
    if strict:
        for prompt, text in zip(prompts, texts):
            needed = len(tokenizer.tokenize(text)) + tokenizer.num_special_tokens_to_add()
            if needed > length:
                raise EditError(
                    "edit.prompt-too-long",
                    f"'{prompt}' is {needed} tokens long; the model reads {length}",
                    "shorten the concept or the template: truncated tokens would not be edited",
                )
    encoded = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return TokenBatch(tuple(prompts), encoded.input_ids)


@dataclass(frozen=True)
class CutPrompt:
    """A prompt whose end is truncated for every text encoder.

    Attributes:
        prompt: the prompt.
        tokens: the number of its tokens, start and end tokens included.
        limit: the largest number of tokens that a text encoder reads.
    """

    prompt: str
    tokens: int
    limit: int


def cut_prompts(tokenizer: Tokenizer | Tokenizers, prompts: Sequence[str]) -> list[CutPrompt]:
    """The prompts that even the tokenizer with the largest limit truncates."""
    if isinstance(tokenizer, Tokenizers):
        segment, longest = max(tokenizer.parts, key=lambda part: part[0].stop - part[0].start)
        limit = segment.stop - segment.start
        expands = tokenizer.expands
    else:
        longest = tokenizer
        limit = tokenizer.model_max_length
        expands = True
    special_tokens = longest.num_special_tokens_to_add()
    cut = []
    for prompt in dict.fromkeys(prompts):
        text = expanded(longest, prompt) if expands else prompt
        tokens = len(longest.tokenize(text)) + special_tokens
        if tokens > limit:
            cut.append(CutPrompt(prompt, tokens, limit))
    return cut


def expanded(tokenizer: Tokenizer, prompt: str) -> str:
    """Expand textual inversions of several vectors in a prompt: ``<toy>`` becomes
    ``<toy> <toy>_1 <toy>_2``.

    Diffusers' pipelines do the same: see `TextualInversionLoaderMixin.maybe_convert_prompt`.
    """
    added = tokenizer.added_tokens_encoder
    several = [token for token in added if f"{token}_1" in added]
    if not several:
        return prompt
    # Sorted, because the order of a set of strings changes from run to run.
    for token in sorted(set(tokenizer.tokenize(prompt)) & set(several)):
        replacement = token
        number = 1
        while f"{token}_{number}" in added:
            replacement += f" {token}_{number}"
            number += 1
        prompt = prompt.replace(token, replacement)
    return prompt


def attended(ids: Tensor, end: int) -> Tensor:
    """The attention mask: 1 at the prompt's tokens and its end token, 0 at the padding.

    Args:
        ids: shape (n, length); so is the result.
        end: the id of the end token. Padding may have the same id.
    """
    ends_before = (ids == end).long().cumsum(1) - (ids == end).long()
    return (ends_before == 0).long()
