"""A model's components by name, loaded from a diffusers folder or from a single file.

torch and accelerate are imported inside functions, because families are listed without them.
Classes and networks of transformers and diffusers are typed `Any`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from forgetcli.checkpoint.single_file import INDEX, SingleFile, has_weights
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.models.tensors import read_parameter
from forgetcli.storage.safetensors import read_header, refuse_quantised

if TYPE_CHECKING:
    import torch

    from forgetcli.checkpoint.base import Base
    from forgetcli.storage.safetensors import TensorSite

# The libraries whose classes are loaded by their names in model_index.json.
LIBRARIES = ("diffusers", "transformers")
Part = TypeVar("Part")


def part(base: Base, name: str, loader: Callable[[Path], Part]) -> Part:
    """A component, loaded from its folder of settings.

    Args:
        loader: `from_pretrained` of the component's class, or another function of the folder.
    Raises:
        ModelError: model.missing-component, model.unreadable.
    """
    folder = base.settings / name
    if not folder.is_dir():
        raise ModelError(
            "model.missing-component",
            f"{base.id} has no {name}/",
            "is it a complete diffusers folder?",
        )
    try:
        return loader(folder)
    except (OSError, ValueError, RuntimeError, KeyError) as fault:
        raise ModelError(
            "model.unreadable",
            f"cannot load {name} of {base.id}: {str(fault).splitlines()[0]}",
            "check the folder, or fetch the model again",
        ) from fault


def network(base: Base, name: str, cls: Any, dtype: torch.dtype) -> Any:
    """A component with weights, in `dtype`, on the CPU, in evaluation mode.

    Args:
        cls: its class in transformers or diffusers.
    Raises:
        ModelError: model.missing-component, model.unreadable; model.dtype: the weights are
            quantised; model.not-finite: a weight is infinite or not a number, so every output
            would be.
    """
    file = base.single
    if file is None or name not in file.keys.components:
        module = _from_folder(base, name, cls, dtype)
    else:
        refuse_quantised(name, file.tensors_of(name).values())
        empty = part(base, name, lambda folder: _empty(cls, folder))
        module = _filled(file, name, empty, dtype)
    for parameter, values in module.named_parameters():
        if not values.isfinite().all():
            raise ModelError(
                "model.not-finite",
                f"{name} of {base.id} has values in '{parameter}' that are not finite numbers",
                "run it with --dtype float32, or fetch the model again",
            )
    return module.eval().requires_grad_(False)


def _from_folder(base: Base, name: str, cls: Any, dtype: torch.dtype) -> Any:
    """A network from the model's diffusers folder, or from the settings of a single file that lacks
    it.
    """
    if base.single is not None:
        _refuse_missing(base, name, base.single)
    variant = None
    if (base.settings / name).is_dir():
        refuse_quantised(name, tensors_of(base.settings, name).values())
        # If all weights have a variant in their names (.fp16.), from_pretrained needs to be told.
        variant = weight_sets(base.settings, name)[0].variant or None
    return part(
        base,
        name,
        lambda folder: cls.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, variant=variant
        ),
    )


def tensors_of(folder: Path, component: str) -> dict[str, TensorSite]:
    """Every tensor of a component of a diffusers folder, by key.

    If the folder has the weights in several forms, these are the ones that loaders read by default.
    """
    return {
        key: site
        for name in weight_sets(folder, component)[0].names
        for key, site in read_header(folder, f"{component}/{name}").items()
    }


def shapes(base: Base, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters by their names in memory. No weights are read.

    The names in a single file are not those in memory. Then an empty network is built from the
    settings.
    """
    if base.single is None or name not in base.single.keys.components:
        return {key: site.shape for key, site in tensors_of(base.settings, name).items()}
    library, class_name = _index(base)[name]
    empty = _empty(_class(library, class_name), base.settings / name)
    return {key: tuple(parameter.shape) for key, parameter in empty.named_parameters()}


def networks(base: Base, dtype: torch.dtype) -> dict[str, Any]:
    """The networks that a pipeline must be given, by name, because diffusers cannot load them.

    These are all networks of a single file, and of a folder in which one has only a variant
    (``.fp16.``). Other folders are loaded by diffusers: then there are none.
    """
    wanted = {
        name: entry
        for name, entry in _index(base).items()
        if isinstance(entry, list)
        and entry[0] in LIBRARIES
        and (base.settings / name / "config.json").is_file()
    }
    if base.single is None and not any(
        weight_sets(base.folder, name)[0].variant for name in wanted
    ):
        return {}
    return {name: network(base, name, _class(*entry), dtype) for name, entry in wanted.items()}


def _index(base: Base) -> dict[str, Any]:
    return json.loads((base.settings / INDEX).read_text(encoding="utf-8"))


def _class(library: str, name: str) -> Any:
    return getattr(importlib.import_module(library), name)


def _refuse_missing(base: Base, name: str, file: SingleFile) -> None:
    if not has_weights(base.settings, name):
        raise ModelError(
            "model.missing-component",
            f"{file.path} has no {name} inside, and {base.settings} has no weights of one",
            f"name a diffusers folder that has {name}/ with its weights with --config",
        )


def _empty(cls: Any, folder: Path) -> Any:
    """A network built from its config, without memory for its weights."""
    from accelerate import init_empty_weights

    # Buffers are not empty: they are computed, and not stored in files.
    with init_empty_weights():
        if hasattr(cls, "load_config"):
            return cls.from_config(cls.load_config(folder))
        return cls(cls.config_class.from_pretrained(folder))


def _filled(file: SingleFile, name: str, module: Any, dtype: torch.dtype) -> Any:
    """The empty network `module` with the file's values.

    Raises:
        ModelError: model.other-config: the shapes of its config are not the file's;
            model.no-tensor.
    """
    state = {}
    for parameter, empty in module.state_dict().items():
        values = read_parameter(file, name, parameter)
        # The attention layers of VAEs are 1×1 convolutions in the file and linear in memory.
        if _squeezed(values.shape) != _squeezed(empty.shape):
            raise ModelError(
                "model.other-config",
                f"{name} {parameter} has shape {tuple(values.shape)} in {file.path}, "
                f"but its config wants {tuple(empty.shape)}",
                "name a diffusers folder of the same architecture with --config",
            )
        state[parameter] = values.reshape(empty.shape).to(
            dtype if values.is_floating_point() else values.dtype
        )
    module.load_state_dict(state, assign=True)
    return module


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
