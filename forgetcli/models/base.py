"""A loaded model: what all families share, and what each family defines.

torch, transformers and diffusers are imported inside functions, because families are listed without
them. Modules of these libraries are typed `Any`: their classes differ from family to family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from forgetcli.checkpoint import pipeline_index
from forgetcli.errors import EditError, ModelError
from forgetcli.models import components, tokenizers
from forgetcli.models.context import Context
from forgetcli.models.encoder import TextEncoder
from forgetcli.models.sites import (
    AllRecorded,
    Site,
    mlp_outputs,
    recorded_inputs,
    replaced_weights,
)
from forgetcli.models.tokens import Tokenizers, attended, tokenise
from forgetcli.process.device import Dtypes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base
    from forgetcli.checkpoint.pipeline_index import PipelineIndex
    from forgetcli.models.offload import Offload
    from forgetcli.models.tokens import TokenBatch, Tokenizer

__all__ = ["Context", "LoadedModel", "Site", "TextEncoder"]

BATCH = 64  # prompts encoded at a time
DEFAULT_TOKENS = 77  # token positions of a text encoder whose config gives no number


class LoadedModel(ABC):
    """A loaded model. Each component is loaded when it is first used, so an edit that does not need
    the denoiser never loads it.

    Attributes:
        ENCODERS: the family's text encoders, in the order of their token ids.
        DENOISER: the denoiser's component.
        DENOISER_CLASS: the denoiser's class in diffusers.
        TEXT_TO_IMAGE: the pipeline's class in diffusers.
        INPAINTING: the class for a denoiser that also reads a mask; empty if there is none.
        SCHEDULERS: the schedulers whose noise the family's edits can reproduce.
        EXPANDS: whether the pipeline replaces a textual inversion of several vectors by the tokens
            of all of them.
        MASKS: whether the pipeline hides padding from a text encoder whose config demands it.
        base: the model on disk.
        device: where the components are loaded.
        dtype: the dtype of the denoiser's and the VAE's weights.
        encoder_dtype: the dtype of the text encoders' weights.
        home: where networks are put when they are loaded: `device`, or the CPU for networks that
            something else moves to the device when they are used.
        offload: what moves them there; None: nothing, or diffusers.
    """

    ENCODERS: tuple[TextEncoder, ...] = (TextEncoder(),)
    DENOISER = "unet"
    DENOISER_CLASS = "UNet2DConditionModel"
    TEXT_TO_IMAGE = "StableDiffusionPipeline"
    INPAINTING = ""
    SCHEDULERS: tuple[str, ...] = pipeline_index.BETA_SCHEDULERS
    EXPANDS = True
    MASKS = False

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self.base = base
        self.device = device
        self.dtype = dtype
        self.encoder_dtype = dtype
        self.home = device
        self.offload: Offload | None = None

    # Defined by each family.

    @abstractmethod
    def encode(self, ids: Tensor) -> Context:
        """Encode token ids (n, length) into the context that the denoiser is conditioned on."""

    @abstractmethod
    def denoise(self, noisy: Tensor, t: Tensor, context: Context) -> Tensor:
        """The denoiser's raw prediction: ε, v or velocity, whichever the model was trained on.

        Args:
            noisy: x_t, shape (n, c, h, w).
            t: the timestep, one number.
        """

    @abstractmethod
    def sampler(self, steps: int) -> Any:
        """A scheduler with its timesteps set. Its x_t must need no scaling before the denoiser."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the latents at the image size that the model was trained on."""

    @property
    def cross_attention(self) -> Mapping[str, Site]:
        """The denoiser's key and value layers whose only input is the context, by name."""
        return {}

    @property
    def embedders(self) -> Mapping[Literal["hidden", "pooled"], Site]:
        """For a denoiser without cross-attention: the layer that is the only one to read the
        tokens' hidden states, and that which is the only one to read the pooled embedding.
        """
        return {}

    @property
    def context_tokens(self) -> tuple[tuple[TextEncoder, int], ...]:
        """The text encoders whose tokens stand in the context, each with the position of its first.

        Where the states of several are concatenated along the width, the first of them.
        """
        return ((self.encoders[0], 0),)

    @property
    def dtype_name(self) -> str:
        """The dtypes, as `--dtype` names them."""
        return Dtypes(self.encoder_dtype, self.dtype).name

    # Components.

    def refuse_incomplete(self) -> None:
        """Refuse a model that lacks a component or has a component of the wrong class.

        Raises:
            ModelError: model.missing-component, model.unknown-class.
        """
        for encoder in self.encoders:
            self.index.require(encoder.component, [encoder.loader])
            self.index.require(encoder.tokenizer, pipeline_index.TOKENIZERS[encoder.kind])
        self.index.require(self.DENOISER, [self.DENOISER_CLASS])
        self.index.require("vae", pipeline_index.VAES)
        self.index.require("scheduler", pipeline_index.SCHEDULERS)

    def refuse_scheduler(self) -> None:
        """Refuse a model whose noise schedule the family's edits cannot reproduce.

        Raises:
            ModelError: model.unknown-scheduler.
        """
        name = self.index.require("scheduler", pipeline_index.SCHEDULERS).name
        config = components.scheduler_settings(self.base)
        if name in self.SCHEDULERS:
            reason = self.unsupported_noise(config)
        else:
            reason = f"{name} is not supported"
        if not reason:
            return
        usual = (
            "FlowMatchEulerDiscreteScheduler" if self.DENOISER == "transformer" else "DDIMScheduler"
        )
        raise ModelError(
            "model.unknown-scheduler",
            f"forget cannot edit {self.base.id} with its scheduler: {reason}",
            "forget can only generate images with this scheduler; to edit the model, give it the "
            f"scheduler of its family, such as {usual}, if it was trained with that noise schedule",
        )

    def unsupported_noise(self, config: Mapping[str, Any]) -> str:
        """The setting of a known scheduler whose noise cannot be reproduced; empty if none."""
        return ""

    @cached_property
    def text_encoder(self) -> Any:
        return self._text_encoder("text_encoder")

    @cached_property
    def text_encoder_2(self) -> Any:
        return self._text_encoder("text_encoder_2")

    @cached_property
    def text_encoder_3(self) -> Any:
        return self._text_encoder("text_encoder_3")

    @property
    def denoiser(self) -> Any:
        return getattr(self, self.DENOISER)

    @cached_property
    def vae(self) -> Any:
        return self._network("vae", self.vae_class)

    @property
    def vae_class(self) -> Any:
        """The VAE's class in diffusers."""
        return components.loaded_class(self.index.require("vae", pipeline_index.VAES))

    @cached_property
    def index(self) -> PipelineIndex:
        """The model's model_index.json. It names only known classes."""
        return components.index(self.base)

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's settings. Its weights are not loaded."""
        return self._config("vae")

    @property
    def vae_scale(self) -> int:
        """Pixels along one side of a latent."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @cached_property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders that this model has. Some copies of large models leave T5 out."""
        return tuple(
            encoder
            for encoder in self.ENCODERS
            if not encoder.optional or encoder.component in self.index.components
        )

    @cached_property
    def tokenizer(self) -> Tokenizer | Tokenizers:
        """The tokenizer of the only text encoder, or the tokenizers of all text encoders."""
        if len(self.encoders) == 1:
            return self.tokenizer_of(self.encoders[0])
        return Tokenizers.of(
            [
                (encoder.component, self.tokenizer_of(encoder), encoder.length, encoder.causal)
                for encoder in self.encoders
            ],
            expands=self.EXPANDS,
        )

    def positions(self, component: str) -> int:
        """The number of token positions that a text encoder reads. No weights are loaded."""
        (encoder,) = [each for each in self.ENCODERS if each.component == component]
        config = self._config(component)
        inner = config.get("text_config")
        if isinstance(inner, dict):  # the config of a whole CLIP model
            config = inner
        positions = encoder.length or config.get("max_position_embeddings", DEFAULT_TOKENS)
        if not isinstance(positions, int):
            raise ModelError(
                "model.damaged",
                f"the config of {component} of {self.base.id} has max_position_embeddings "
                f"{str(positions)[:40]!r}, which is not an integer",
                "fetch the model again",
            )
        return positions

    def _config(self, name: str) -> dict[str, Any]:
        return components.settings(self.base, name)

    def _network(self, name: str, cls: Any, dtype: torch.dtype | None = None) -> Any:
        network = components.network(self.base, name, cls, dtype or self.dtype).to(self.home)
        if self.offload is not None:
            self.offload.add(network)
        return network

    def _text_encoder(self, component: str) -> Any:
        import transformers

        (encoder,) = [each for each in self.ENCODERS if each.component == component]
        return self._network(component, getattr(transformers, encoder.loader), self.encoder_dtype)

    def tokenizer_of(self, encoder: TextEncoder) -> Tokenizer:
        """The tokenizer of one text encoder, loaded once."""
        if encoder.tokenizer not in self._tokenizers:
            self._tokenizers[encoder.tokenizer] = tokenizers.load(
                self.base, self.index, encoder, self.positions(encoder.component)
            )
        return self._tokenizers[encoder.tokenizer]

    @cached_property
    def _tokenizers(self) -> dict[str, Tokenizer]:
        return {}

    def refuse_unembedded(self, prompts: Sequence[str]) -> None:
        """Refuse prompts with a token that has no embedding in a text encoder.

        Raises:
            ModelError: model.tokenizer.
        """
        batch = tokenise(self.tokenizer, prompts)
        for encoder in self.encoders:
            tokenizers.refuse_unembedded(
                encoder,
                self.tokenizer_of(encoder),
                batch.of(encoder.component).ids,
                getattr(self, encoder.component).config.vocab_size,
            )

    # Predictions.

    def encoder_output(self, encoder: TextEncoder, ids: Tensor, **options: Any) -> Any:
        """The output of one text encoder.

        Args:
            ids: the token ids for all text encoders, shape (n, length).
            options: further arguments of the encoder's forward pass.
        Raises:
            ModelError: model.tokenizer: the text encoder has no embedding for a token.
        """
        if isinstance(self.tokenizer, Tokenizers):
            ids = self.tokenizer.columns(encoder.component, ids)
        network = getattr(self, encoder.component)
        tokenizer = self.tokenizer_of(encoder)
        tokenizers.refuse_unembedded(encoder, tokenizer, ids, network.config.vocab_size)
        if self.MASKS and getattr(network.config, "use_attention_mask", False):
            mask = attended(ids, tokenizer.eos_token_id)
            options = {"attention_mask": mask.to(self.device), **options}
        return network(ids.to(self.device), **options)

    def unconditional(self) -> Context:
        """The negative context of classifier-free guidance: the encoded empty prompt, one row."""
        return self.encode(tokenise(self.tokenizer, [""]).ids)

    def guided(
        self, noisy: Tensor, t: Tensor, context: Context, empty: Context, guidance: float
    ) -> Tensor:
        """The prediction with classifier-free guidance.

        Args:
            noisy: x_t, shape (n, c, h, w).
            t: the timestep, one number.
            empty: the negative context, from `unconditional`.
            guidance: the guidance scale; 1 gives the conditional prediction alone.
        """
        import torch

        if guidance == 1:
            return self.denoise(noisy, t, context)
        both = Context.cat([empty.repeated(len(noisy)), context])
        negative, positive = self.denoise(torch.cat([noisy, noisy]), t, both).chunk(2)
        return negative + guidance * (positive - negative)

    # Sites of the text encoders.

    def sites_of(self, encoder: TextEncoder) -> dict[int, Site]:
        """The second linear layer of each block's MLP, by block number."""
        network = getattr(self, encoder.component)
        return mlp_outputs(encoder, network, qualified=len(self.encoders) > 1)

    @cached_property
    def sites(self) -> dict[int, Site]:
        """The first text encoder's sites by block number."""
        return self.sites_of(self.encoders[0])

    def pick_sites(self, blocks: Sequence[int], kinds: Sequence[str] = ("clip",)) -> list[Site]:
        """The sites of these blocks in every text encoder of these kinds, encoder by encoder.

        Raises:
            EditError: the model has no such block, or no such text encoder.
        """
        encoders = [encoder for encoder in self.encoders if encoder.kind in kinds]
        if not encoders:
            known = ", ".join(dict.fromkeys(encoder.kind for encoder in self.encoders))
            raise EditError(
                "edit.no-such-encoder",
                f"{self.base.id} has no {' or '.join(kinds)} text encoder",
                f"[edit] encoders can be: {known}",
            )
        picked: list[Site] = []
        for encoder in encoders:
            sites = self.sites if encoder is self.encoders[0] else self.sites_of(encoder)
            missing = [block for block in blocks if block not in sites]
            if missing:
                name = "the text encoder" if len(self.encoders) == 1 else encoder.component
                raise EditError(
                    "edit.no-such-site",
                    f"{name} has no block {missing[0]}",
                    f"[edit] sites can be {min(sites)} to {max(sites)}",
                )
            picked += [sites[block] for block in sorted(set(blocks))]
        return picked

    def keys(self, sites: Sequence[Site], ids: Tensor) -> dict[str, Tensor]:
        """The inputs of the sites at all positions of their text encoder.

        Returns:
            site name → shape (n, length, d_in), on the CPU, float64.
        """
        import torch

        with recorded_inputs(sites, lambda site, inputs: inputs) as found:
            for part in ids.split(BATCH):
                self._read_up_to(sites, part)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def distinct_keys(self, sites: Sequence[Site], batch: TokenBatch) -> dict[str, Tensor]:
        """The inputs of the sites at each distinct prefix of their text encoder's tokens: those of
        `keys`, merged by `TokenBatch.merge`, without ever holding all positions.

        Returns:
            site name → shape (d_in, distinct), on the CPU, float64.
        """
        import torch

        first = {site.component: batch.of(site.component).first for site in sites}
        start = 0

        def distinct(site: Site, inputs: Tensor) -> Tensor:
            n, length, _ = inputs.shape
            rows = first[site.component] - start * length
            rows = rows[(rows >= 0) & (rows < n * length)]
            return inputs.flatten(0, 1)[rows.to(inputs.device)]

        with recorded_inputs(sites, distinct) as found:
            for part in batch.ids.split(BATCH):
                self._read_up_to(sites, part)
                start += len(part)
        # One part, as of a batch of preserve prompts, is not copied.
        return {
            name: (torch.cat(parts) if len(parts) > 1 else parts[0]).T
            for name, parts in found.items()
        }

    def _read_up_to(self, sites: Sequence[Site], ids: Tensor) -> None:
        """Run the text encoders of the sites, each up to the last of its sites."""
        import torch

        components_of_sites = {site.component for site in sites}
        with torch.no_grad():
            for encoder in self.encoders:
                if encoder.component in components_of_sites:
                    with suppress(AllRecorded):
                        self.encoder_output(encoder, ids)

    @contextmanager
    def weights(self, changed: Mapping[tuple[str, str], Tensor]) -> Iterator[None]:
        """Give the parameters (component, name) other values within a `with` block."""
        parameters = [
            (getattr(self, component).get_parameter(name), values)
            for (component, name), values in changed.items()
        ]
        with replaced_weights(parameters):
            yield
