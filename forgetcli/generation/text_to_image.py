"""The diffusers pipeline of a model, made of components that forget has loaded itself.

Diffusers never gets the model's folder: from one it would import what model_index.json names.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from forgetcli.checkpoint.pipeline_index import DISPENSABLE
from forgetcli.models import components
from forgetcli.quiet import quiet_libraries

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel


@quiet_libraries()
def text_to_image(model: LoadedModel) -> Any:
    """The pipeline that generates images of prompts alone, whatever class the model's index names:
    that of an image-to-image pipeline has the same components.

    Raises:
        ModelError: a component cannot be loaded.
    """
    cls = _pipeline_class(model)
    accepted = inspect.signature(cls.__init__).parameters
    parts: dict[str, Any] = {
        name: value for name, value in model.index.settings.items() if name in accepted
    }
    # A safety checker would blacken images, which would count as erasure.
    parts |= {"requires_safety_checker": False, **dict.fromkeys(DISPENSABLE)}
    for encoder in model.ENCODERS:
        has_it = encoder in model.encoders
        parts[encoder.tokenizer] = model.tokenizer_of(encoder) if has_it else None
        parts[encoder.component] = getattr(model, encoder.component) if has_it else None
    parts[model.DENOISER] = model.denoiser
    parts["vae"] = model.vae
    parts["scheduler"] = components.scheduler(model.base)
    return cls(**{name: part for name, part in parts.items() if name in accepted})


def _pipeline_class(model: LoadedModel) -> Any:
    # The command line starts without diffusers.
    import diffusers
    from diffusers.utils import import_utils

    # With this flag, diffusers' pipelines import onnxruntime, whose telemetry looks up a host.
    import_utils._onnx_available = False
    name = model.TEXT_TO_IMAGE
    if model.INPAINTING:
        config = model.denoiser.config
        # Latents, a mask and the latents of the masked image.
        if config.in_channels == 2 * config.out_channels + 1:
            name = model.INPAINTING
    return getattr(diffusers, name)
