"""What all families share: components read when first used, sites found by structure, keys, and
weights put in for a while.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from forgetcli.errors import EditError
from forgetcli.models import components

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base

BATCH = 64  # prompts encoded at a time
KINDS = {
    "clip": ("mlp", "fc2"),
    "t5": ("DenseReluDense", "wo"),
}  # last names of the layer that leads out of an MLP


@dataclass(frozen=True)
class TextEncoder:
    """One of a family's text encoders.

    Attributes:
        component, tokenizer: the folders of its weights and of its tokenizer.
        kind: CLIP's is causal, T5's is not: there every position sees the whole prompt, padding
            included.
        loader: its class in transformers.
        length: token positions that it reads; None: as many as its tokenizer says.
        unread: how many of its last blocks nothing is read from: they are no sites.
    """

    component: str = "text_encoder"
    tokenizer: str = "tokenizer"
    kind: Literal["clip", "t5"] = "clip"
    loader: str = "CLIPTextModel"
    length: int | None = None
    unread: int = 0


@dataclass(frozen=True)
class Site:
    """One linear layer that can be edited.

    Attributes:
        name: its path in the component; with the component in front where several components have
            such layers.
    """

    component: str
    name: str
    module: torch.nn.Linear

    @property
    def path(self) -> str:
        """Its path in the component."""
        return self.name.removeprefix(f"{self.component}.")

    @property
    def parameter(self) -> str:
        """Its weight's name in the component."""
        return f"{self.path}.weight"


@dataclass(frozen=True)
class Context:
    """What a denoiser reads of prompts; rows are prompts.

    Attributes:
        hidden: the tokens' hidden states, shape (n, length, d).
        pooled: the prompts' summaries, shape (n, d'), for denoisers that read them.
    """

    hidden: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, rows) -> Context:
        return Context(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    def repeated(self, n: int) -> Context:
        """The first row, n times."""
        return self[[0] * n]

    @staticmethod
    def cat(parts: Sequence[Context]) -> Context:
        import torch

        pooled = [part.pooled for part in parts]
        return Context(
            torch.cat([part.hidden for part in parts]),
            None if pooled[0] is None else torch.cat(pooled),
        )


class LoadedModel:
    """A loaded model. Components are read when first used: an edit without refinement never loads
    the denoiser.

    A family says

        ENCODERS, DENOISER                text encoders in the order of their token ids, and the
                                          denoiser's component
        encode(ids) -> Context            as the denoiser reads it
        denoise(noisy, t, context)        the denoiser's raw prediction (ε, v or velocity, as it was
                                          trained)
        guided(noisy, t, context, empty, s)   the prediction with guidance s away from the empty
                                              prompt
        sampler(steps)                    a scheduler with its timesteps set, whose x_t the denoiser
                                          reads as it is
        latent_shape                      (c, h, w) of the pictures that the model was made for
        cross_attention                   the denoiser's sites that read the context alone, by name
    """

    ENCODERS: tuple[TextEncoder, ...] = (TextEncoder(),)
    DENOISER = "unet"

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self.base, self.device, self.dtype = base, device, dtype

    def _component(self, name: str, loader):
        return components.part(self.base, name, loader)

    def _network(self, name: str, cls, dtype: torch.dtype | None = None):
        return components.network(self.base, name, cls, dtype or self.dtype).to(self.device)

    def _text_encoder(self, component: str):
        import transformers

        (encoder,) = [e for e in self.ENCODERS if e.component == component]
        return self._network(component, getattr(transformers, encoder.loader))

    @cached_property
    def text_encoder(self):
        return self._text_encoder("text_encoder")

    @cached_property
    def text_encoder_2(self):
        return self._text_encoder("text_encoder_2")

    @cached_property
    def text_encoder_3(self):
        return self._text_encoder("text_encoder_3")

    @property
    def denoiser(self):
        return getattr(self, self.DENOISER)

    @cached_property
    def vae(self):
        from diffusers import AutoencoderKL

        return self._network("vae", AutoencoderKL)

    @cached_property
    def index(self) -> dict:
        return json.loads((self.base.settings / "model_index.json").read_text(encoding="utf-8"))

    @cached_property
    def vae_config(self) -> dict:
        """The VAE's settings, without its weights."""
        return self._component(
            "vae", lambda folder: json.loads((folder / "config.json").read_text(encoding="utf-8"))
        )

    @property
    def vae_scale(self) -> int:
        """Pixels a latent's side."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @cached_property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders that this model has: some copies of large families leave T5 out."""
        return tuple(e for e in self.ENCODERS if None not in self.index.get(e.component, [None]))

    @cached_property
    def tokenizer(self):
        """What `prompts.tokenise` takes: the tokenizer, or those of all text encoders."""
        from forgetcli.models.tokens import Tokenizers

        return (
            self._tokenizer(self.encoders[0])
            if len(self.encoders) == 1
            else Tokenizers.of(
                [
                    (e.component, self._tokenizer(e), e.length, e.kind == "clip")
                    for e in self.encoders
                ]
            )
        )

    def _tokenizer(self, encoder: TextEncoder):
        import transformers

        loader = {"clip": transformers.CLIPTokenizer, "t5": transformers.T5TokenizerFast}[
            encoder.kind
        ]
        return self._component(encoder.tokenizer, loader.from_pretrained)

    def read(self, encoder: TextEncoder, ids: Tensor, **options):
        """A text encoder's output for its columns of the token ids (n, length)."""
        own = ids if len(self.encoders) == 1 else self.tokenizer.columns(encoder.component, ids)
        return getattr(self, encoder.component)(own.to(self.device), **options)

    def unconditional(self) -> Context:
        """What guidance leads away from, one row: the empty prompt."""
        from forgetcli.models.tokens import tokenise

        return self.encode(tokenise(self.tokenizer, [""]).ids)

    def guided(
        self, noisy: Tensor, t: Tensor, context: Context, empty: Context, guidance: float
    ) -> Tensor:
        """The prediction at x_t, (n, c, h, w), and t, a number, with classifier-free guidance;
        `empty` is `unconditional()`.
        """
        import torch

        if guidance == 1:  # half of the work
            return self.denoise(noisy, t, context)
        both = Context.cat([empty.repeated(len(noisy)), context])
        without, with_ = self.denoise(torch.cat([noisy, noisy]), t, both).chunk(2)
        return without + guidance * (with_ - without)

    def sites_of(self, encoder: TextEncoder) -> dict[int, Site]:
        """Block number → the second linear layer of its MLP, found by structure."""
        import torch

        found = {}
        for name, module in getattr(self, encoder.component).named_modules():
            parts = name.split(".")
            if isinstance(module, torch.nn.Linear) and tuple(parts[-2:]) == KINDS[encoder.kind]:
                block = next(int(part) for part in parts if part.isdecimal())
                found[block] = Site(
                    encoder.component,
                    name if len(self.encoders) == 1 else f"{encoder.component}.{name}",
                    module,
                )
        read = sorted(found)[: len(found) - encoder.unread]
        return {block: found[block] for block in read}

    @cached_property
    def sites(self) -> dict[int, Site]:
        """The first text encoder's sites by block number."""
        return self.sites_of(self.encoders[0])

    @property
    def cross_attention(self) -> dict[str, Site]:
        return {}

    def pick_sites(self, blocks: Sequence[int], kinds: Sequence[str] = ("clip",)) -> list[Site]:
        """The sites of these blocks in every text encoder of these kinds, in order.

        Raises:
            EditError: the model has no such block, or no such text encoder.
        """
        chosen, sites = [e for e in self.encoders if e.kind in kinds], []
        if not chosen:
            raise EditError(
                "edit.no-such-encoder",
                f"{self.base.id} has no {' or '.join(kinds)} text encoder",
                f"[edit] encoders can be: {', '.join(dict.fromkeys(e.kind for e in self.encoders))}",
            )
        for encoder in chosen:
            there = self.sites if encoder is self.encoders[0] else self.sites_of(encoder)
            missing = [b for b in blocks if b not in there]
            if missing:
                name = "the text encoder" if len(self.encoders) == 1 else encoder.component
                raise EditError(
                    "edit.no-such-site",
                    f"{name} has no block {missing[0]}",
                    f"[edit] sites can be {min(there)} to {max(there)}",
                )
            sites += [there[b] for b in sorted(set(blocks))]
        return sites

    def keys(self, sites: list[Site], ids: Tensor) -> dict[str, Tensor]:
        """Inputs of the sites for all positions of their encoder: name → (n, length, d_in), on the
        CPU, float64.
        """
        import torch

        caught: dict[str, list[Tensor]] = {s.name: [] for s in sites}
        hooks = [
            s.module.register_forward_pre_hook(
                lambda _, args, name=s.name: caught[name].append(args[0].detach().cpu().double())
            )
            for s in sites
        ]
        wanted = {s.component for s in sites}
        try:
            with torch.no_grad():
                for part in ids.split(BATCH):
                    for encoder in self.encoders:
                        if encoder.component in wanted:
                            self.read(encoder, part)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in caught.items()}

    @contextmanager
    def weights(self, changed: dict[tuple[str, str], Tensor]):
        """These weights in place of the model's own, for the length of a `with`."""
        import torch

        kept = []
        try:
            with torch.no_grad():
                for (component, parameter), weight in changed.items():
                    target = getattr(self, component).get_parameter(parameter)
                    kept.append((target, target.detach().clone()))
                    target.copy_(weight.to(target))
            yield
        finally:
            with torch.no_grad():
                for target, weight in kept:
                    target.copy_(weight)
