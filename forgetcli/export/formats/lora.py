"""The LoRA format: two low-rank matrices for each edited weight. UIs add them to the base model at
any strength.

The rank of a closed-form edit is at most its number of keys, so a LoRA represents it exactly,
except for the rounding of stored weights: a model in float16 rounds every entry of W + Δ, and this
noise has full rank. The error of the truncation is measured and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest_schema import EditedTensor
from forgetcli.errors import EditError
from forgetcli.export.modelspec import modelspec
from forgetcli.linalg.low_rank import low_rank, rank_for
from forgetcli.models.encoder import MLP_OUTPUT
from forgetcli.models.tensors import from_bytes
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer

SUFFIX = ".safetensors"
OTHER_FORMATS = "export it as delta, single-file or diffusers, which can represent any edit"
TEXT_MODEL = "text_model."
# kohya's prefixes. If there are two text encoders, the first one's prefix is lora_te1.
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
DENOISERS = ("unet", "transformer")
COMPONENTS = {"diffusers": (*DENOISERS, "text_encoder", "text_encoder_2"), "kohya": (*PREFIXES,)}
KOHYA = "https://github.com/kohya-ss/sd-scripts"

Naming = Literal["diffusers", "kohya"]


class Options(BaseModel):
    """The settings.

    Attributes:
        error: the allowed relative error ‖Δ − BA‖_F / ‖Δ‖_F of each tensor.
        rank: the largest allowed rank, even if the error is then larger.
        naming: the convention for tensor names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    error: float = Field(1e-3, ge=0, lt=1)
    rank: int | None = Field(None, ge=1)
    naming: Naming = "diffusers"


@dataclass(frozen=True)
class Factors:
    """The two stored matrices of one edited weight, float32.

    Attributes:
        tensor: the edited weight.
        up: shape (outputs, r), followed by 1 for each dimension of a convolution's kernel.
        down: shape (r, inputs), followed by the dimensions of a convolution's kernel.
        figures: the weight's entry in ``export --json``.
    """

    tensor: EditedTensor
    up: Tensor
    down: Tensor
    figures: Mapping[str, Any]


def write(
    edited: EditedModel, output: Path, options: Options, force: bool, observer: Observer
) -> dict[str, Any]:
    """Write the LoRA. All tensors have the same rank, which is the largest that any tensor needs.

    Loaders take rank and alpha from different places, and some use the first tensor's values for
    all. With a common rank, and alpha equal to it, all loaders give the same result. Smaller
    factors are padded with zeros.

    Returns:
        ``rank``, ``naming`` and ``tensors``, each of which has ``rank`` and ``full_rank``;
        ``error``: ‖W₀ + BA − W‖_F / ‖W − W₀‖_F of the stored factors at strength 1;
        ``weight_error``: the same relative to ‖W‖_F; ``stored_error``: the fraction of the edit
        that was lost when the edited weight was rounded to its dtype; ``rank_of_edit``: the rank at
        which the error is at most ``stored_error``. Above this rank a LoRA holds rounding noise.
    Raises:
        EditError: export.not-a-lora: the edit changed a parameter other than the weight of a linear
            or convolution layer, or one that has no name in the naming; export.nothing-edited.
    """
    changed = _changed(edited)
    for tensor in changed:
        _refuse_other_layers(edited, tensor, options.naming)
    _tell_of_text_encoders(changed, observer)
    observer.stage("decomposing", len(changed))
    factors = []
    for tensor in changed:
        factors.append(_factors(edited, tensor, options))
        observer.advance()
    rank = max(each.down.shape[0] for each in factors)
    two_encoders = (edited.settings / "text_encoder_2").is_dir()
    tensors: dict[str, Tensor] = {}
    for each in factors:
        up = _padded(each.up, 1, rank)
        down = _padded(each.down, 0, rank)
        if options.naming == "kohya":
            tensors |= _kohya_names(each.tensor, up, down, two_encoders)
        else:
            tensors |= _diffusers_names(each.tensor, up, down)
    observer.stage("writing")
    contents = {name: safetensors_writer.of_floats(value) for name, value in tensors.items()}
    with atomic.publishing_file(output, force=force) as writer:
        safetensors_writer.write(writer, contents, _metadata(edited, rank, options.naming))
    return {
        "rank": rank,
        "naming": options.naming,
        "tensors": [dict(each.figures) for each in factors],
    }


def _tell_of_text_encoders(changed: list[EditedTensor], observer: Observer) -> None:
    """Say what a loader that reads a LoRA for the denoiser alone would leave out."""
    count = sum(tensor.component.startswith("text_encoder") for tensor in changed)
    if not count:
        return
    of_all = "all of this edit" if count == len(changed) else f"{count} of {len(changed)} layers"
    observer.note(
        f"loaders of the model alone leave out {of_all}, in the text encoder, and the concept is "
        "back; they keep the other half of an edit with --set edit.layers=both"
    )


def _changed(edited: EditedModel) -> list[EditedTensor]:
    """The tensors that differ from the base model's, one for each parameter.

    If the folder has several variants of a parameter, all have the same edit. The first variant is
    returned, which loaders read by default.
    """
    first: dict[tuple[str, str], EditedTensor] = {}
    for tensor in edited.manifest.edited:
        first.setdefault((tensor.component, tensor.parameter), tensor)
    changed = [tensor for tensor in first.values() if tensor.before != tensor.after]
    if not changed:
        raise EditError(
            "export.nothing-edited",
            f"no weight of {edited.folder} differs from the base model, so there is nothing to "
            "put into a LoRA",
        )
    return changed


def _refuse_other_layers(edited: EditedModel, tensor: EditedTensor, naming: Naming) -> None:
    """Refuse a parameter that a LoRA cannot change.

    Raises:
        EditError: export.not-a-lora.
    """
    shape = edited.site(tensor).shape
    layer, _, kind = tensor.parameter.rpartition(".")
    is_embedding = "embedding" in layer.rpartition(".")[2]
    is_layer = bool(layer) and kind == "weight" and len(shape) in (2, 4) and not is_embedding
    if is_layer and tensor.component == "transformer" and naming == "kohya":
        raise EditError(
            "export.not-a-lora",
            f"the edit changed transformer {tensor.parameter}, and kohya's names for the layers of "
            "transformers are not known here",
            "use --naming diffusers, or export it as delta",
        )
    # Loaders read LoRAs of CLIP only.
    is_t5 = tuple(layer.split(".")[-2:]) == MLP_OUTPUT["t5"]
    if not is_layer or is_t5 or tensor.component not in COMPONENTS[naming]:
        raise EditError(
            "export.not-a-lora",
            f"the edit changed {tensor.component} {tensor.parameter} {shape}; a LoRA can change "
            "only the weights of linear and convolution layers of the denoiser and the CLIP text "
            "encoders",
            OTHER_FORMATS,
        )


def _factors(edited: EditedModel, tensor: EditedTensor, options: Options) -> Factors:
    """Decompose the change Δ = W − W₀ of one weight."""
    shape = edited.site(tensor).shape
    after = from_bytes(edited.after(tensor), tensor.dtype, shape).double().flatten(1)
    before = from_bytes(edited.before(tensor), tensor.dtype, shape).double().flatten(1)
    delta = after - before
    decomposed = low_rank(delta, options.error, options.rank)
    up = decomposed.up.float()
    down = decomposed.down.float()
    residual = float((delta - up.double() @ down.double()).norm())
    kernel = shape[2:]
    return Factors(
        tensor=tensor,
        up=up.reshape(*up.shape, *[1] * len(kernel)),
        down=down.reshape(decomposed.rank, *shape[1:]),
        figures={
            "component": tensor.component,
            "parameter": tensor.parameter,
            "dtype": tensor.dtype,
            "rank": decomposed.rank,
            "full_rank": len(decomposed.singular),
            "error": residual / float(delta.norm()),
            "weight_error": residual / float(after.norm()),
            "stored_error": tensor.error,
            "rank_of_edit": rank_for(decomposed.singular, min(tensor.error, 1.0)),
        },
    )


def _padded(factor: Tensor, axis: int, rank: int) -> Tensor:
    """Pad a factor with zeros up to `rank` along an axis."""
    shape = list(factor.shape)
    shape[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(shape)], axis)


def _layer(tensor: EditedTensor) -> str:
    """The layer's path. In text encoders it begins with ``text_model.``, which loaders expect.

    Parameter names of transformers 5 lack this prefix, and therefore also the manifest's.
    """
    layer = tensor.parameter.removesuffix(".weight")
    if tensor.component not in DENOISERS and not layer.startswith((TEXT_MODEL, "text_projection")):
        return TEXT_MODEL + layer
    return layer


def _diffusers_names(tensor: EditedTensor, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """The factors under the names that diffusers expects.

    In the denoiser diffusers expects `lora_A` and `lora_B`. For MLP layers of a text encoder it
    supports only the older `lora_linear_layer`, which ComfyUI supports too.
    """
    prefix = f"{tensor.component}.{_layer(tensor)}"
    if tensor.component in DENOISERS:
        return {f"{prefix}.lora_B.weight": up, f"{prefix}.lora_A.weight": down}
    return {
        f"{prefix}.lora_linear_layer.up.weight": up,
        f"{prefix}.lora_linear_layer.down.weight": down,
    }


def _kohya_names(
    tensor: EditedTensor, up: Tensor, down: Tensor, two_encoders: bool
) -> dict[str, Tensor]:
    """The factors and alpha under kohya's names, which have underscores instead of dots."""
    prefix = PREFIXES[tensor.component]
    if two_encoders and tensor.component == "text_encoder":
        prefix += "1"
    name = f"{prefix}_{_layer(tensor).replace('.', '_')}"
    return {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(float(down.shape[0])),
    }


def _metadata(edited: EditedModel, rank: int, naming: Naming) -> Mapping[str, str]:
    entries = {
        "format": "pt",
        "forget.base": edited.manifest.base,
        "forget.base_digest": edited.manifest.base_digest,
    }
    if naming == "diffusers":
        return {**modelspec(edited, "lora"), **entries}
    kohya = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    return {**modelspec(edited, "lora", KOHYA), **entries, **kohya}
