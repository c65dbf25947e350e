"""The edit as a LoRA: two thin matrices for each edited weight, which UIs put on the base at any
strength.

A closed-form edit has at most as many ranks as it had keys, so it fits one exactly, but for what
storing it has rounded:
a base in float16 rounds every entry of W + Δ, and that noise has full rank. What is cut off is
stated and measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.artifact.edited import Edited
from forgetcli.artifact.manifest import EditedTensor
from forgetcli.errors import EditError
from forgetcli.export.modelspec import modelspec
from forgetcli.progress import Observer
from forgetcli.storage import atomic, safetensors_writer

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
ELSEWHERE = "export it as delta, single-file or diffusers, which hold any edit"
TEXT_MODEL = "text_model."
PREFIXES = {
    "unet": "lora_unet",
    "text_encoder": "lora_te",
    "text_encoder_2": "lora_te2",
}  # kohya's; te1 where there are two


class Options(BaseModel):
    """
    Attributes:
        error: ‖Δ − BA‖_F / ‖Δ‖_F that is allowed for each tensor.
        rank: at most this one, whatever the error then is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    error: float = Field(1e-3, ge=0, lt=1)
    rank: int | None = Field(None, ge=1)
    naming: Literal["diffusers", "kohya"] = "diffusers"


def write(edited: Edited, output: Path, options: Options, force: bool, observer: Observer) -> dict:
    """One rank for the whole file, the largest that any tensor needs; the others are filled up with
    zeros.

    Loaders read rank and alpha in different places, and several take the first for all. With one
    rank, and alpha equal
    to it, all of them compute the same.

    Figures:
        rank, naming, and for each of ``tensors``: `rank`, of `full_rank`; `error`, ‖W₀ + BA − W‖_F
            / ‖W − W₀‖_F of what
        was written, at strength 1; `weight_error`, the same relative to ‖W‖_F; `stored_error`, the
        share of the edit
        that storing it had rounded away before; `rank_of_edit`, the rank at which the error is no
        more than that: beyond
        it a LoRA holds rounding noise.
    Raises:
        EditError: export.not-a-lora: something was edited that is no weight of a linear or
            convolution layer;
            export.nothing-edited.
    """
    changed = _changed(edited)
    for tensor in changed:
        _refuse_others(edited, tensor)
    observer.stage("decomposing", len(changed))
    factors, rows = {}, []
    for tensor in changed:
        factors[tensor], row = _factors(edited, tensor, options)
        rows.append(row)
        observer.advance()
    rank = max(row["rank"] for row in rows)
    both = (edited.settings / "text_encoder_2").is_dir()
    tensors = {}
    for tensor, (up, down) in factors.items():
        tensors |= _named(
            tensor, _padded(up, 1, rank), _padded(down, 0, rank), options.naming, both
        )
    observer.stage("writing")
    contents = {name: safetensors_writer.of_floats(value) for name, value in tensors.items()}
    with atomic.publishing_file(output, force=force) as writer:
        safetensors_writer.write(writer, contents, _metadata(edited, rank, options.naming))
    return {"rank": rank, "naming": options.naming, "tensors": rows}


def _changed(edited: Edited) -> list[EditedTensor]:
    """The tensors that differ, in the form of the weights that loaders read; a variant beside it
    has the same edit.
    """
    first = {}
    for tensor in edited.manifest.edited:
        first.setdefault((tensor.component, tensor.parameter), tensor)
    changed = [tensor for tensor in first.values() if tensor.before != tensor.after]
    if not changed:
        raise EditError(
            "export.nothing-edited",
            f"no weight of {edited.folder} differs from the base: there is nothing to put into a LoRA",
        )
    return changed


def _refuse_others(edited: Edited, tensor: EditedTensor) -> None:
    shape, name = edited.site(tensor).shape, tensor.parameter
    layer = (
        name.endswith(".weight") and len(shape) in (2, 4) and "embedding" not in name.split(".")[-2]
    )
    if not layer or tensor.component not in PREFIXES:
        raise EditError(
            "export.not-a-lora",
            f"the edit changed {tensor.component} {name} {shape}; a LoRA can change only the "
            "weights of linear and convolution layers of the denoiser and the text encoder",
            ELSEWHERE,
        )


def _factors(
    edited: Edited, tensor: EditedTensor, options: Options
) -> tuple[tuple[Tensor, Tensor], dict]:
    """(up, down) of one weight as they will be stored, float32, and its figures."""
    from forgetcli.linalg.low_rank import low_rank, rank_for

    shape = edited.site(tensor).shape
    new, old = (
        _double(data, tensor.dtype).reshape(shape[0], -1)
        for data in (edited.after(tensor), edited.before(tensor))
    )
    found = low_rank(new - old, options.error, options.rank)
    up, down = found.up.float(), found.down.float()
    missed = float((new - old - up.double() @ down.double()).norm())
    row = {
        "component": tensor.component,
        "parameter": tensor.parameter,
        "dtype": tensor.dtype,
        "rank": found.rank,
        "full_rank": len(found.singular),
        "error": missed / float((new - old).norm()),
        "weight_error": missed / float(new.norm()),
        "stored_error": tensor.error,
        "rank_of_edit": rank_for(found.singular, min(tensor.error, 1.0)),
    }
    kernel = shape[2:]
    return (up.reshape(*up.shape, *[1] * len(kernel)), down.reshape(found.rank, *shape[1:])), row


def _double(data: bytes, dtype: str) -> Tensor:
    import torch

    from forgetcli.storage.safetensors import TORCH_NAMES

    return torch.frombuffer(bytearray(data), dtype=getattr(torch, TORCH_NAMES[dtype])).double()


def _padded(factor: Tensor, axis: int, rank: int) -> Tensor:
    import torch

    missing = list(factor.shape)
    missing[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(missing)], axis)


def _named(
    tensor: EditedTensor, up: Tensor, down: Tensor, naming: str, both_encoders: bool
) -> dict[str, Tensor]:
    """The two factors under the names that loaders look for.

    diffusers finds `lora_A` in the denoiser and, of layers of the text encoder's MLP, only the
    older
    `lora_linear_layer`; ComfyUI takes the latter too. kohya's names have underscores for dots.
    """
    module, component = tensor.parameter.removesuffix(".weight"), tensor.component
    if component != "unet" and not module.startswith((TEXT_MODEL, "text_projection")):
        module = TEXT_MODEL + module  # files have it; transformers 5 in memory has not
    if naming == "kohya":
        import torch

        prefix = PREFIXES[component] + (
            "1" if both_encoders and component == "text_encoder" else ""
        )
        name = f"{prefix}_{module.replace('.', '_')}"
        alpha = torch.tensor(float(down.shape[0]))
        return {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": alpha,
        }
    ends = (
        ("lora_B", "lora_A")
        if component == "unet"
        else ("lora_linear_layer.up", "lora_linear_layer.down")
    )
    return {f"{component}.{module}.{end}.weight": factor for end, factor in zip(ends, (up, down))}


def _metadata(edited: Edited, rank: int, naming: str) -> Mapping[str, str]:
    own = {
        "format": "pt",
        "forget.base": edited.manifest.base,
        "forget.base_digest": edited.manifest.base_digest,
    }
    if naming == "diffusers":
        return {**modelspec(edited, "lora"), **own}
    kohya = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    return {**modelspec(edited, "lora", "https://github.com/kohya-ss/sd-scripts"), **own, **kohya}
