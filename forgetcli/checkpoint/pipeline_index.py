"""model_index.json: the pipeline's class and the classes of its components.

Diffusers imports what this file names. It is therefore read here, and every class is compared with
a list of known ones, before any library opens the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetcli.checkpoint.component_settings import read_json
from forgetcli.checkpoint.confinement import check_component_name
from forgetcli.errors import ModelError

INDEX = "model_index.json"
# Text-to-image pipelines run without these components, and many copies lack them. They are never
# loaded.
DISPENSABLE = ("safety_checker", "feature_extractor", "image_encoder")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_NUMBERED = re.compile(r"_\d+$")
_CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
TOKENIZERS = {"clip": _CLIP_TOKENIZERS, "t5": _T5_TOKENIZERS}
VAES = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")
# Schedulers with the noise schedule of DDIM: a table of betas, times from 999 to 0.
BETA_SCHEDULERS = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
# Schedulers that diffusers' pipelines take, and with which forget generates images but edits none.
OTHER_SCHEDULERS = (
    "CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "IPNDMScheduler",
)
SCHEDULERS = (*BETA_SCHEDULERS, *FLOW_SCHEDULERS, *OTHER_SCHEDULERS)
# Component, without the number at its end → library → known classes.
KNOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "text_encoder": {
        "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
    },
    "tokenizer": {"transformers": (*_CLIP_TOKENIZERS, *_T5_TOKENIZERS)},
    "unet": {"diffusers": ("UNet2DConditionModel",)},
    "transformer": {"diffusers": ("SD3Transformer2DModel", "FluxTransformer2DModel")},
    "vae": {"diffusers": VAES},
    "scheduler": {"diffusers": SCHEDULERS},
    "safety_checker": {
        "stable_diffusion": ("StableDiffusionSafetyChecker",),
        "stable_diffusion_safe": ("SafeStableDiffusionSafetyChecker",),
    },
    "feature_extractor": {
        "transformers": (
            "CLIPFeatureExtractor",
            "CLIPImageProcessor",
            "CLIPImageProcessorFast",
            "CLIPImageProcessorPil",
            "SiglipImageProcessor",
            "SiglipImageProcessorFast",
        )
    },
    "image_encoder": {
        "transformers": ("CLIPVisionModelWithProjection", "CLIPVisionModel", "SiglipVisionModel")
    },
}


@dataclass(frozen=True)
class ComponentClass:
    """A component's class, as model_index.json names it.

    Attributes:
        library: ``diffusers``, ``transformers``, or a module of diffusers' pipelines.
        name: the class.
    """

    library: str
    name: str

    def __str__(self) -> str:
        return f"{self.library}.{self.name}"


@dataclass(frozen=True)
class PipelineIndex:
    """The content of a model_index.json.

    Attributes:
        path: the file.
        class_name: the pipeline's class.
        components: the components that the pipeline has, in the file's order. One that the file
            calls null is left out.
        settings: arguments of the pipeline that are no components.
    """

    path: Path
    class_name: str
    components: Mapping[str, ComponentClass]
    settings: Mapping[str, Any]

    def refuse_unknown(self) -> None:
        """Refuse components of unknown classes, which could be code of the model's author.

        Raises:
            ModelError: model.unknown-class.
        """
        for name, cls in self.components.items():
            known = KNOWN.get(_NUMBERED.sub("", name), {})
            if cls.name not in known.get(cls.library, ()):
                raise self._unknown(name, [f"{k}.{c}" for k, v in known.items() for c in v])

    def require(self, name: str, classes: Sequence[str]) -> ComponentClass:
        """The class of a component that the model has to have.

        Args:
            classes: the names of the classes that fit.
        Raises:
            ModelError: model.missing-component, model.unknown-class.
        """
        cls = self.components.get(name)
        if cls is None:
            raise ModelError(
                "model.missing-component",
                f"{self.path} names no {name}: the model cannot generate images without it",
                "is it a complete diffusers folder? fetch the model again",
            )
        if cls.name not in classes:
            raise self._unknown(name, classes)
        return cls

    def _unknown(self, name: str, known: Sequence[str]) -> ModelError:
        cls = self.components[name]
        return ModelError(
            "model.unknown-class",
            f"{self.path} names {cls} as {name}, which is no class that forget loads",
            f"known: {', '.join(known[:4])}{', …' if len(known) > 4 else ''}"
            if known
            else f"remove '{name}' from {INDEX} if the model does not need it",
        )


def read(folder: Path) -> PipelineIndex:
    """The index of a diffusers folder. Only its form is checked; see `refuse_unknown`.

    Raises:
        ModelError: model.not-a-model: it is not valid; model.unreadable: there is none;
            file.outside: a component's name is a path.
    """
    path = folder / INDEX
    try:
        entries = read_json(path)
        class_name = entries["_class_name"]
        if not isinstance(class_name, str):
            raise TypeError(f"_class_name is {class_name!r}, which is no name")
        components = {}
        settings = {}
        for name, entry in entries.items():
            if name.startswith("_"):
                continue
            if not isinstance(entry, list):
                settings[name] = entry
                continue
            check_component_name(path, name)
            cls = _component(name, entry)
            if cls is not None:
                components[name] = cls
    except (ValueError, KeyError, TypeError) as fault:
        raise not_valid(path, fault) from fault
    return PipelineIndex(path, class_name, components, settings)


def not_valid(path: Path, fault: object) -> ModelError:
    """The error for an index that cannot be used."""
    return ModelError("model.not-a-model", f"{path} is not valid: {fault}", "fetch the model again")


def _component(name: str, entry: list[Any]) -> ComponentClass | None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is no name of a component")
    if len(entry) != 2 or not all(part is None or isinstance(part, str) for part in entry):
        raise ValueError(f"{name} is {str(entry)[:80]}, not [library, class]")
    library, cls = entry
    return None if library is None or cls is None else ComponentClass(library, cls)
