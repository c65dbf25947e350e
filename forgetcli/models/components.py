"""A model's networks by name, from a diffusers folder or a single file alike: all that a family
needs to load one.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from forgetcli.checkpoint.single_file import INDEX, SingleFile, has_weights
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError
from forgetcli.storage.safetensors import read_header, refuse_quantised

if TYPE_CHECKING:
    import torch

    from forgetcli.checkpoint.base import Base
    from forgetcli.storage.safetensors import TensorSite

LIBRARIES = ("diffusers", "transformers")  # whose classes a model_index.json may name
Part = TypeVar("Part")


def part(base: Base, name: str, loader: Callable[[Path], Part]) -> Part:
    """A component that has no weights (a tokenizer, a scheduler), by its library's
    `from_pretrained`.

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


def network(base: Base, name: str, cls, dtype: torch.dtype):
    """A component with weights, in `dtype`, on the CPU, ready to be asked.

    Args:
        cls: its class in transformers or diffusers.
    Raises:
        ModelError: model.missing-component, model.unreadable; model.dtype: its weights are
            quantised; model.not-finite: one of
            them is not a number, so all that it puts out would not be one either.
    """
    file = base.single
    if file is None or name not in file.keys.components:
        _check_there(base, name, file)
        refuse_quantised(
            name,
            tensors_of(base.settings, name).values() if (base.settings / name).is_dir() else (),
        )
        # where all that is there has .fp16. or the like in its name, the libraries want that said
        variant = (
            weight_sets(base.settings, name)[0].variant or None
            if (base.settings / name).is_dir()
            else None
        )
        module = part(
            base,
            name,
            lambda folder: cls.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, variant=variant
            ),
        )
    else:
        refuse_quantised(name, file.tensors_of(name).values())
        module = _filled(file, name, part(base, name, lambda folder: _empty(cls, folder)), dtype)
    for parameter, values in module.named_parameters():
        if not values.isfinite().all():
            raise ModelError(
                "model.not-finite",
                f"{name} of {base.id} has values in '{parameter}' that are not finite numbers",
                "run it with --dtype float32, or fetch the model again",
            )
    return module.eval().requires_grad_(False)


def tensors_of(folder: Path, component: str) -> dict[str, TensorSite]:
    """Every tensor of a diffusers folder's component, by key, in the form that loaders read by
    default.
    """
    files = weight_sets(folder, component)[0].files
    names = [files] if isinstance(files, str) else sorted(set(files.values()))
    return {
        key: site
        for name in names
        for key, site in read_header(folder, f"{component}/{name}").items()
    }


def shapes(base: Base, name: str) -> dict[str, tuple[int, ...]]:
    """Of every parameter of a network, by the name that it has in memory; no weights are read.

    A single file has names of its own: there they are those of an empty network, built as the
    settings say.
    """
    if base.single is None or name not in base.single.keys.components:
        return {key: site.shape for key, site in tensors_of(base.settings, name).items()}
    network = _empty(
        _class(*json.loads((base.settings / INDEX).read_text(encoding="utf-8"))[name]),
        base.settings / name,
    )
    return {key: tuple(parameter.shape) for key, parameter in network.named_parameters()}


def networks(base: Base, dtype: torch.dtype) -> dict:
    """All networks of a pipeline by name, of a single file or of a folder that has only a variant
    (``.fp16.``) of some; else none: diffusers
    loads such a folder by itself."""
    entries = json.loads((base.settings / INDEX).read_text(encoding="utf-8"))
    wanted = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, list)
        and entry[0] in LIBRARIES
        and (base.settings / name / "config.json").is_file()
    }
    if base.single is None and not any(
        weight_sets(base.folder, name)[0].variant for name in wanted
    ):
        return {}
    return {name: network(base, name, _class(*entry), dtype) for name, entry in wanted.items()}


def _class(library: str, name: str):
    return getattr(importlib.import_module(library), name)


def _check_there(base: Base, name: str, file: SingleFile | None) -> None:
    if file is not None and not has_weights(base.settings, name):
        raise ModelError(
            "model.missing-component",
            f"{file.path} has no {name} inside, and {base.settings} has no weights of one",
            f"name a diffusers folder that has {name}/ with its weights with --config",
        )


def _empty(cls, folder: Path):
    """A network as its config says, without memory for its weights."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # parameters only: buffers are computed, not stored
        if hasattr(cls, "load_config"):
            return cls.from_config(cls.load_config(folder))
        return cls(cls.config_class.from_pretrained(folder))


def _filled(file: SingleFile, name: str, module, dtype: torch.dtype):
    """The network with the file's values.

    Raises:
        ModelError: model.other-config: its config wants other shapes than the file has;
            model.no-tensor.
    """
    state = {}
    for parameter, empty in module.state_dict().items():
        values = file.tensor(name, parameter)
        squeezed = tuple(
            n for n in values.shape if n != 1
        )  # attention of VAEs: 1×1 convolutions there, linear here
        if squeezed != tuple(n for n in empty.shape if n != 1):
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
