"""A model's components by name, loaded from a diffusers folder or from a single file.

torch and accelerate are imported inside functions, because families are listed without them.
Classes and networks of transformers and diffusers are typed `Any`.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from forgetcli.checkpoint import component_settings, config_fit, pipeline_index
from forgetcli.checkpoint.component_settings import read_settings
from forgetcli.checkpoint.pipeline_index import ComponentClass, PipelineIndex
from forgetcli.checkpoint.single_file import SingleFile, has_weights
from forgetcli.checkpoint.weights import WeightSet, weight_sets
from forgetcli.errors import ForgetError, ModelError
from forgetcli.models.tensors import read_parameter
from forgetcli.process.quiet import quiet_libraries
from forgetcli.storage.safetensors import FETCH_AGAIN, read_header, refuse_quantised

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetcli.checkpoint.base import Base
    from forgetcli.storage.safetensors import TensorSite

SCHEDULER_CONFIG = "scheduler_config.json"
MOST_TRAIN_STEPS = 1_000_000  # published models have 1,000
# The end of a parameter's path in a VAE's attention → the end that it had before diffusers 0.13.
FORMER_NAMES = {".to_q": ".query", ".to_k": ".key", ".to_v": ".value", ".to_out.0": ".proj_attn"}
Part = TypeVar("Part")


def index(base: Base) -> PipelineIndex:
    """The model's index, checked to name only known classes.

    Raises:
        ModelError: model.not-a-model, model.unknown-class.
    """
    pipeline = pipeline_index.read(base.settings)
    pipeline.refuse_unknown()
    return pipeline


def part(base: Base, name: str, loader: Callable[[Path], Part]) -> Part:
    """A component, loaded by `loader` from its folder.

    Args:
        loader: a function of the folder. Its exceptions are reported as damage of the folder.
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
    except (ForgetError, MemoryError):
        raise
    except Exception as fault:  # the libraries raise whatever a damaged file leads to
        if type(fault).__name__ == "OutOfMemoryError":  # torch's; the command line explains it
            raise
        lines = str(fault).splitlines() or [type(fault).__name__]
        raise ModelError(
            "model.unreadable",
            f"cannot load {name} of {base.id}: {lines[0]}",
            "check the folder, or fetch the model again",
        ) from fault


def settings(base: Base, name: str, file: str = "config.json") -> dict[str, Any]:
    """The settings of a component without the ones that name code; see `component_settings`.

    Raises:
        ModelError: model.missing-component, model.damaged, model.unreadable.
    """
    return part(base, name, lambda folder: read_settings(folder / file))


def scheduler_settings(base: Base) -> dict[str, Any]:
    """The settings of the scheduler. A single file can override its prediction type.

    Raises:
        ModelError: as `settings`; model.damaged: more time steps than `MOST_TRAIN_STEPS`, whose
            tables would fill the memory.
    """
    stored = settings(base, "scheduler", SCHEDULER_CONFIG)
    steps = stored.get("num_train_timesteps")
    if isinstance(steps, int | float) and steps > MOST_TRAIN_STEPS:
        raise config_fit.damaged(
            base.settings / "scheduler" / SCHEDULER_CONFIG,
            f"num_train_timesteps is more than {MOST_TRAIN_STEPS}",
        )
    return base.single.scheduler_settings(stored) if base.single else stored


def ignored_settings(base: Base, index: PipelineIndex) -> list[str]:
    """The settings in the folder that are not used, one line a file.

    Raises:
        ModelError: as `settings`.
    """
    unused = component_settings.unused_settings(base.settings, index.components)
    return [*unused, *overridden_settings(base)]


def overridden_settings(base: Base) -> list[str]:
    """The settings of the scheduler that a single file overrides, as one line; empty if none.

    Raises:
        ModelError: as `settings`.
    """
    if base.single is None:
        return []
    stored = settings(base, "scheduler", SCHEDULER_CONFIG)
    used = scheduler_settings(base)
    changes = [f"{key} = {value}" for key, value in used.items() if stored.get(key) != value]
    if not changes:
        return []
    return [f"scheduler settings taken from {base.place}: {', '.join(changes)}"]


@quiet_libraries()
def network(base: Base, name: str, cls: Any, dtype: torch.dtype) -> Any:
    """A component with weights, in `dtype`, on the CPU, in evaluation mode.

    Every parameter must be in the file, because the libraries fill gaps with random numbers.

    Args:
        cls: the component's class in transformers or diffusers.
    Raises:
        ModelError: model.missing-component, model.unreadable; model.damaged: the weights do not
            fit the config; model.dtype: the weights are quantised; model.not-finite: a weight is
            infinite or NaN, so every output would be too.
    """
    file = base.single
    if file is None or name not in file.keys.components:
        module = _from_folder(base, name, cls, dtype)
    else:
        tensors = file.tensors_of(name)
        refuse_quantised(name, tensors.values())
        config = settings(base, name)
        config_fit.refuse_oversized(base.settings / name / "config.json", config, tensors)
        empty = part(base, name, lambda _: _empty(cls, config))
        module = part(base, name, lambda _: _filled(file, name, empty, dtype))
    for parameter, values in module.named_parameters():
        # A sum takes a thirtieth of the time. It is finite only if all values are, but it may
        # overflow.
        if not values.sum().isfinite() and not values.isfinite().all():
            raise ModelError(
                "model.not-finite",
                f"{name} of {base.id} has values in '{parameter}' that are not finite numbers",
                "run it with --dtype float32, or fetch the model again",
            )
    return module.eval().requires_grad_(False)


def _from_folder(base: Base, name: str, cls: Any, dtype: torch.dtype) -> Any:
    """A network from a diffusers folder: the model itself, or the `--config` folder of a single
    file that lacks the component.
    """
    if base.single is not None:
        _refuse_missing(base, name, base.single)
    config = settings(base, name)
    folder = base.settings / name
    weights = weight_sets(base.settings, name)[0]
    tensors = tensors_of(base.settings, name)
    refuse_quantised(name, tensors.values())
    config_fit.refuse_oversized(folder / "config.json", config, tensors)

    def load(_: Path) -> Any:
        state = _state(folder, weights)
        if hasattr(cls, "load_config"):
            return _diffusers_network(folder, cls, config, state, dtype)
        return _transformers_network(folder, cls, config, state, dtype)

    return part(base, name, load)


def _state(folder: Path, weights: WeightSet) -> dict[str, Tensor]:
    """The tensors of a component by key, in the dtype in which they are stored."""
    from safetensors import safe_open

    state = {}
    for file in weights.names:
        with safe_open(folder / file, "pt") as reader:
            for key in reader.keys():  # noqa: SIM118 (the reader is not a mapping)
                if isinstance(weights.files, str) or weights.files.get(key) == file:
                    state[key] = reader.get_tensor(key)
    return state


def _diffusers_network(
    folder: Path, cls: Any, config: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype
) -> Any:
    """A diffusers network with the values of `state`.

    Raises:
        ModelError: model.damaged: `state` lacks a parameter, or has one of another shape.
    """
    module = _empty(cls, config)
    values = {}
    for parameter, empty in module.state_dict().items():
        tensor = state.get(parameter, state.get(_former_name(parameter)))
        if tensor is None:
            raise _lacks(folder, [key for key in module.state_dict() if not _has(state, key)])
        if tensor.shape != empty.shape:
            raise _other_shape(folder, parameter, tensor.shape, empty.shape)
        values[parameter] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype)
    module.load_state_dict(values, assign=True)
    return module


def _has(state: Mapping[str, Tensor], parameter: str) -> bool:
    return parameter in state or _former_name(parameter) in state


def _former_name(parameter: str) -> str:
    """The name that a parameter of a VAE's attention had before diffusers 0.13."""
    path, _, kind = parameter.rpartition(".")
    for now, former in FORMER_NAMES.items():
        if path.endswith(now):
            return f"{path.removesuffix(now)}{former}.{kind}"
    return parameter


def _transformers_network(
    folder: Path, cls: Any, config: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype
) -> Any:
    """A transformers network with the values of `state`.

    transformers is not given the folder, because it would look for adapters and other files there.

    Raises:
        ModelError: model.damaged: `state` lacks a parameter, or has one of another shape.
    """
    network, report = cls.from_pretrained(
        None,
        config=_transformers_config(cls, config),
        state_dict=state,
        torch_dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    for parameter, stored, required in report["mismatched_keys"]:
        raise _other_shape(folder, parameter, stored, required)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise _lacks(folder, missing)
    return network


def _transformers_config(cls: Any, config: Mapping[str, Any]) -> Any:
    """The config of a text encoder, taken out of the config of a whole CLIP model if it is one."""
    inner = config.get(cls.config_class.base_config_key or "")
    return cls.config_class.from_dict(dict(inner if isinstance(inner, dict) else config))


def _lacks(folder: Path, missing: Sequence[str]) -> ModelError:
    others = f" and {len(missing) - 1} more" if missing[1:] else ""
    return ModelError(
        "model.damaged",
        f"the weights in {folder} lack '{missing[0]}'{others}, which its config requires",
        "a training wrapper's prefix, an unmerged LoRA, or an incomplete conversion? "
        "save the model again, or fetch it again",
    )


def _other_shape(
    folder: Path, parameter: str, stored: Iterable[int], required: Iterable[int]
) -> ModelError:
    return ModelError(
        "model.damaged",
        f"'{parameter}' in {folder} has shape {tuple(stored)}, but its config requires "
        f"{tuple(required)}",
        FETCH_AGAIN,
    )


def tensors_of(folder: Path, component: str) -> dict[str, TensorSite]:
    """Every tensor of a component of a diffusers folder, by key.

    If the folder has several variants of the weights, these are the ones that loaders read by
    default.
    """
    return {
        key: site
        for name in weight_sets(folder, component)[0].names
        for key, site in read_header(folder, f"{component}/{name}").items()
    }


def stored_denoiser(base: Base) -> tuple[str, int]:
    """The dtype of most of the denoiser's parameters in the file, as safetensors names it, and the
    number of the parameters. No weights are read.
    """
    (name,) = {"unet", "transformer"} & set(index(base).components)
    counts: Counter[str] = Counter()
    for tensor in _stored(base, name).values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    return counts.most_common(1)[0][0], counts.total()


def stored_shapes(base: Base, name: str) -> list[tuple[int, ...]]:
    """The shapes of a network's tensors in the file. No weights are read."""
    return [tensor.shape for tensor in _stored(base, name).values()]


def _stored(base: Base, name: str) -> Mapping[str, TensorSite]:
    """A network's tensors, in the single file or in a folder."""
    file = base.single
    if file is not None and name in file.keys.components:
        return file.tensors_of(name)
    return tensors_of(base.settings, name)


def shapes(base: Base, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters by their names in memory. No weights are read.

    A single file uses other names. For one, an empty network is built from the settings.
    """
    if base.single is None or name not in base.single.keys.components:
        return {key: site.shape for key, site in tensors_of(base.settings, name).items()}
    config = settings(base, name)
    config_fit.refuse_oversized(
        base.settings / name / "config.json", config, base.single.tensors_of(name)
    )
    cls = loaded_class(index(base).components[name])
    empty = part(base, name, lambda _: _empty(cls, config))
    return {key: tuple(parameter.shape) for key, parameter in empty.named_parameters()}


def loaded_class(cls: ComponentClass) -> Any:
    """The class that an index names. The index must have been checked by `index`.

    Raises:
        ModelError: model.unknown-class: the installed library has no such class.
    """
    try:
        return getattr(importlib.import_module(cls.library), cls.name)
    except AttributeError as fault:
        raise ModelError(
            "model.unknown-class",
            f"the installed {cls.library} has no {cls.name}",
            f"pip install --upgrade {cls.library}",
        ) from fault


def scheduler(base: Base) -> Any:
    """The model's own scheduler.

    Raises:
        ModelError: model.missing-component, model.unknown-class, model.damaged, model.unreadable.
    """
    cls = loaded_class(index(base).require("scheduler", pipeline_index.SCHEDULERS))
    config = scheduler_settings(base)
    return part(base, "scheduler", lambda _: cls.from_config(config))


def _refuse_missing(base: Base, name: str, file: SingleFile) -> None:
    if not has_weights(base.settings, name):
        raise ModelError(
            "model.missing-component",
            f"{file.path} does not contain {name}, and {base.settings} has no weights for it",
            f"give --config a diffusers folder that has {name}/ with weights",
        )


def _empty(cls: Any, config: dict[str, Any]) -> Any:
    """A network built from its config, without memory for its weights."""
    from accelerate import init_empty_weights

    # Buffers do get memory: they are computed, not read from files.
    with init_empty_weights():
        if hasattr(cls, "load_config"):
            return cls.from_config(config)
        return cls(_transformers_config(cls, config))


def _filled(file: SingleFile, name: str, module: Any, dtype: torch.dtype) -> Any:
    """The empty network `module` with the file's values.

    Raises:
        ModelError: model.other-config: a shape differs between the config and the file;
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
                f"but its config requires {tuple(empty.shape)}",
                "give --config a diffusers folder of the same architecture",
            )
        state[parameter] = values.reshape(empty.shape).to(
            dtype if values.is_floating_point() else values.dtype
        )
    module.load_state_dict(state, assign=True)
    return module


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
