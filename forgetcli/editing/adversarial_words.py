"""Words that concept inversion learns through a denoiser while it is trained: one step of their
descents for each step of the training (Shafahi et al., arXiv 1904.12843).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from forgetcli.editing.inversion import PROMPTS, borrowed_word, inserted, starting_vectors
from forgetcli.editing.unlearning_sizes import WORDS
from forgetcli.models import vocabulary
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tokens import tokenise

WORD_LR = 0.1  # relative to the root mean square of the embeddings' entries
WORD_STEPS = 400  # steps after which a word begins anew elsewhere
# A word whose denoising loss is above this times that of the target's prompt brings nothing back:
# it has become another concept, which must stay.
HARMLESS = 1.2
MEMORY = 0.9  # of the running mean of that ratio
REMEMBERED = 5  # the words of every so many steps are replayed later


class Words:
    """Words that concept inversion learns through the denoiser while it is trained."""

    def __init__(
        self, model: LoadedModel, concept: str, target: str, generator: torch.Generator
    ) -> None:
        self.model = model
        self.generator = generator
        self.borrowed = borrowed_word(model, PROMPTS)
        prompts = [prompt.replace("{}", self.borrowed) for prompt in PROMPTS]
        self.ids = tokenise(model.tokenizer, prompts).ids
        self.starts: tuple[str | None, ...] = (concept, None, target)
        self.begun = 0
        self.learned = [self._begin() for _ in range(WORDS)]
        self.ratios = [HARMLESS] * WORDS  # loss by the target prompt's, running means
        self.past: list[dict[str, Tensor]] = []

    def contexts(self) -> Context:
        """Each word in a random prompt; gradients reach the words."""
        return self._encoded([vectors for vectors, _ in self.learned])

    @torch.no_grad()
    def replayed(self, n: int) -> Context:
        """Words as they were at random earlier steps; at first, as they are."""
        past = self.past or [vectors for vectors, _ in self.learned]
        return self._encoded([past[self._random(len(past))] for _ in range(n)])

    def follow(self, errors: Tensor, bars: Tensor, number: int) -> None:
        """A step of every word down its error, whose graph is retained.

        Args:
            errors: of the predictions for `contexts`, shape (words,).
            bars: the unedited model's errors there for the target's prompt, shape (words,).
            number: of the step, from 0.
        """
        for i, ratio in enumerate((errors.detach() / bars).tolist()):
            self.ratios[i] = MEMORY * self.ratios[i] + (1 - MEMORY) * ratio
        free = [vector for vectors, _ in self.learned for vector in vectors.values()]
        gradients = torch.autograd.grad(errors.sum(), free, retain_graph=True)
        for vector, gradient in zip(free, gradients):
            vector.grad = gradient
        if number % REMEMBERED == 0:
            self.past += [
                {name: vector.detach().clone() for name, vector in vectors.items()}
                for (vectors, _), harmful in zip(self.learned, self.harmful())
                if harmful
            ]
        for _, optimiser in self.learned:
            optimiser.step()
        # One after another, so that some words are always old.
        if number and number % (WORD_STEPS // WORDS) == 0:
            oldest = (number * WORDS // WORD_STEPS - 1) % WORDS
            self.learned[oldest], self.ratios[oldest] = self._begin(), HARMLESS

    def harmful(self) -> Tensor:
        """Which words bring the concept back: bool, shape (words,)."""
        return torch.tensor([ratio < HARMLESS for ratio in self.ratios])

    def _begin(self) -> tuple[dict[str, Tensor], torch.optim.Adam]:
        """A word at the concept, the vocabulary's mean, the target or a random word, in turn."""
        turn = self.begun % (len(self.starts) + 1)
        self.begun += 1
        if turn < len(self.starts):
            start = self.starts[turn]
        else:
            words = vocabulary.words(self.model.tokenizer)
            start = words[self._random(len(words))]
        vectors, scales = starting_vectors(self.model, start)
        groups = [{"params": [vectors[name]], "lr": WORD_LR * scales[name]} for name in vectors]
        return vectors, torch.optim.Adam(groups)

    def _encoded(self, words: Sequence[Mapping[str, Tensor]]) -> Context:
        vectors = {name: torch.stack([each[name] for each in words])[:, None] for name in words[0]}
        rows = torch.randint(len(self.ids), (len(words),), generator=self.generator)
        with inserted(self.model, self.borrowed, vectors):
            return self.model.encode(self.ids[rows])

    def _random(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))
