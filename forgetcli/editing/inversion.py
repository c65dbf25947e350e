"""Concept inversion: an input of the denoiser that brings a concept back, found by descent.

    min over v of  E ‖target(x₀, ε, t) − denoiser(x_t, t, c(v))‖²

over latents x₀ of images of the concept, noise ε and times t. The weights stay as they are. With
`invert_token`, v is the embedding of one new word and c(v) what the model's own text encoders make
of prompts with it. With `invert_context`, v is the denoiser's context itself: no attack through
prompts or embeddings can find an input that this search excludes.

Gal et al., An Image is Worth One Word (arXiv 2208.01618), eq. 2; as an attack on erased models:
Pham et al., Circumventing Concept Erasure Methods (arXiv 2308.01508).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.models import vocabulary
from forgetcli.models.base import Context, LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.progress import Observer

# Prompts of the search; {} is where the new word stands.
PROMPTS = ("{}", "a picture of {}", "an image of {}", "a drawing of {}")


@dataclass(frozen=True)
class LearnedToken:
    """The embedding of one new word.

    A word of the vocabulary takes the new word's place in prompts. Its embedding is replaced within
    `inserted` and is not changed otherwise.

    Attributes:
        word: the word of the vocabulary that is borrowed.
        vectors: text encoder's component → embedding, float32, on the CPU, shape (d,).
        losses: the denoising loss by step.
    """

    word: str
    vectors: Mapping[str, Tensor]
    losses: tuple[float, ...] = ()

    def prompt(self, template: str) -> str:
        """A template with {} as a prompt, to be encoded within `inserted`."""
        return template.replace("{}", self.word)

    @contextmanager
    def inserted(self, model: LoadedModel) -> Iterator[None]:
        """The borrowed word has the learned embedding within a `with`.

        It also holds for a pipeline that was made of the model's components.
        """
        with inserted(model, self.word, self.vectors):
            yield


@dataclass(frozen=True)
class LearnedContext:
    """A context of the denoiser that no prompt gives.

    Attributes:
        context: float32, on the model's device: hidden states (1, length, d), and the pooled
            embeddings (1, d') where the denoiser reads them.
        losses: the denoising loss by step.
    """

    context: Context
    losses: tuple[float, ...] = ()


def concept_latents(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    guidance: float,
    seed: int,
    observer: Observer,
    steps: int = 20,
) -> Tensor:
    """Latents of one image of each prompt, as the model generates it: shape (n, c, h, w).

    They are the search's data: the model is the unedited one, and the prompts name the concept.

    Args:
        guidance: the scale of classifier-free guidance.
        seed: of the initial noise.
        steps: sampler steps.
    """
    generator = torch.Generator().manual_seed(seed)
    return noisy_bank(
        model, prompts, steps=steps, guidance=guidance, generator=generator, observer=observer
    ).finished


def invert_token(
    model: LoadedModel,
    latents: Tensor,
    *,
    prompts: Sequence[str] = PROMPTS,
    start: str | None = None,
    steps: int = 250,
    lr: float = 0.1,
    batch: int = 8,
    timesteps: tuple[int, int] = (0, 1000),
    seed: int = 0,
    observer: Observer,
) -> LearnedToken:
    """Learn the embedding of one new word from images of a concept.

    Args:
        model: the edited model, with its own text encoders. Its weights are not changed.
        latents: of images of the concept, shape (n, c, h, w), from `concept_latents` or the VAE's
            latents times its scaling factor.
        prompts: templates with {}; each step draws `batch` of them.
        start: text whose tokens' mean embedding is where the descent starts; None, or a text
            without tokens: the mean of the whole vocabulary.
        steps: steps of Adam.
        lr: its learning rate, relative to the root mean square of the embeddings' entries.
        batch: images per step.
        timesteps: lowest and highest (exclusive) time of the noise, out of the model's 1000.
        seed: of the drawn images, prompts, noise and times.
    Raises:
        EditError: edit.diverged: the loss is no longer finite.
    """
    word = borrowed_word(model, prompts)
    vectors, scales = starting_vectors(model, start)
    ids = tokenise(model.tokenizer, [prompt.replace("{}", word) for prompt in prompts]).ids
    groups = [{"params": [vectors[name]], "lr": lr * scales[name]} for name in vectors]

    def contexts(rows: Tensor) -> Context:
        return model.encode(ids[rows])

    with inserted(model, word, vectors):
        losses = _descend(
            model, latents, contexts, len(ids), groups, steps, batch, timesteps, seed, observer
        )
    return LearnedToken(word, {name: v.detach().cpu() for name, v in vectors.items()}, losses)


def starting_vectors(
    model: LoadedModel, start: str | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Where the descent of a word begins, and the size of embeddings, by text encoder's component.

    Args:
        start: see `invert_token`.
    Returns:
        embeddings, float32, shape (d,), which require gradients; the root mean square of the
        entries of the component's embeddings.
    """
    vectors, scales = {}, {}
    for encoder in model.encoders:
        name = encoder.component
        table = getattr(model, name).get_input_embeddings().weight.detach().float()
        scales[name] = float(table.square().mean().sqrt())
        # An empty target has no tokens.
        rows = (tokens_of(model, start)[name] if start else None) or slice(None)
        vectors[name] = table[rows].mean(0).requires_grad_()
    return vectors, scales


def invert_context(
    model: LoadedModel,
    latents: Tensor,
    *,
    start: str = "",
    steps: int = 250,
    lr: float = 0.1,
    batch: int = 8,
    seed: int = 0,
    observer: Observer,
) -> LearnedContext:
    """Learn a context of the denoiser from images of a concept; see `invert_token`.

    Args:
        start: the prompt whose context is where the descent starts.
        lr: relative to the root mean square of the entries of that context.
    """
    with torch.no_grad():
        first = model.encode(tokenise(model.tokenizer, [start]).ids)
    free = {
        name: value.detach().float().clone().requires_grad_()
        for name, value in (("hidden", first.hidden), ("pooled", first.pooled))
        if value is not None
    }
    groups = [
        {"params": [v], "lr": lr * float(v.detach().square().mean().sqrt())} for v in free.values()
    ]

    def contexts(rows: Tensor) -> Context:
        return Context(**{k: v.to(model.dtype) for k, v in free.items()}).repeated(len(rows))

    losses = _descend(model, latents, contexts, 1, groups, steps, batch, (0, 1000), seed, observer)
    return LearnedContext(Context(**{k: v.detach() for k, v in free.items()}), losses)


def borrowed_word(model: LoadedModel, prompts: Sequence[str]) -> str:
    """A word of the vocabulary that is one token for every text encoder and in none of the prompts.

    The least frequent ones are tried first.

    Raises:
        EditError: edit.no-word: there is none.
    """
    taken = {word for prompt in prompts for word in prompt.casefold().split()}
    for word in reversed(vocabulary.words(model.tokenizer)):
        if word not in taken and token_ids(model, word):
            return word
    raise EditError(
        "edit.no-word",
        f"the tokenizers of {model.base.id} have no word in common that is one token",
        "invert the context instead",
    )


def token_ids(model: LoadedModel, word: str) -> dict[str, int]:
    """Text encoder's component → the word's token id; empty if it has several for one of them."""
    found = tokens_of(model, word)
    single = all(len(ids) == 1 for ids in found.values())
    return {component: ids[0] for component, ids in found.items()} if single else {}


def tokens_of(model: LoadedModel, text: str) -> dict[str, list[int]]:
    """Text encoder's component → the text's token ids, without the start and end tokens."""
    found = {}
    for encoder in model.encoders:
        tokenizer: Any = model.tokenizer_of(encoder)
        ids = tokenizer([text], add_special_tokens=False).input_ids[0]
        found[encoder.component] = [int(number) for number in ids]
    return found


@contextmanager
def inserted(model: LoadedModel, word: str, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """The word's embedding is `vectors` within a `with`. Gradients reach the vectors.

    Args:
        vectors: text encoder's component → embedding, shape (d,), or (n, 1, d) for one in each of
            the n prompts that are encoded.
    """

    def replaced(number: int, vector: Tensor) -> Callable[..., Tensor]:
        def replace(_module: torch.nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Any:
            there = (arguments[0] == number)[..., None]
            return torch.where(there, vector.to(output), output)

        return replace

    with ExitStack() as hooks:
        for component, number in token_ids(model, word).items():
            network = getattr(model, component)
            table = network.get_input_embeddings().weight
            # T5 reads its tokens in another layer with the same, tied weight.
            for layer in network.modules():
                if isinstance(layer, torch.nn.Embedding) and layer.weight is table:
                    handle = layer.register_forward_hook(replaced(number, vectors[component]))
                    hooks.callback(handle.remove)
        yield


def _descend(
    model: LoadedModel,
    latents: Tensor,
    contexts: Callable[[Tensor], Context],
    rows: int,
    groups: list[dict[str, Any]],
    steps: int,
    batch: int,
    timesteps: tuple[int, int],
    seed: int,
    observer: Observer,
) -> tuple[float, ...]:
    """Adam on the denoising loss; changes the groups' parameters. Returns the loss by step."""
    generator = torch.Generator().manual_seed(seed)
    scheduler = model.sampler(1)  # only its noise is used
    high = min(timesteps[1], scheduler.config.num_train_timesteps)
    low = min(timesteps[0], high - 1)
    free = [value for group in groups for value in group["params"]]
    optimiser = torch.optim.Adam(groups)
    losses: list[float] = []
    observer.stage("inversion", steps)
    for _ in range(steps):
        clean = latents[torch.randint(len(latents), (batch,), generator=generator)]
        prompt = torch.randint(rows, (batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(low, high, (batch,), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        predicted = model.denoise(noisy, t, contexts(prompt))
        loss = F.mse_loss(predicted.float(), prediction_target(scheduler, clean, noise, t).float())
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise EditError(
                "edit.diverged",
                "the inversion's loss is no longer a finite number",
                "lower its learning rate",
            )
        for value, gradient in zip(free, torch.autograd.grad(loss, free)):
            value.grad = gradient
        optimiser.step()
        observer.advance(loss=losses[-1])
    return tuple(losses)


def prediction_target(scheduler: Any, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the denoiser was trained to predict for x_t of these latents and noise, (n, c, h, w):
    ε, v, x₀ or, in flow matching, ε − x₀.
    """
    kind = scheduler.config.get("prediction_type", "flow")
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    return scheduler.get_velocity(clean, noise, t) if kind == "v_prediction" else noise - clean
