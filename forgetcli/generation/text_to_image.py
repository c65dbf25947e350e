"""The diffusers pipeline of a model, built from components that forget has loaded itself.

diffusers is never given the model's folder, because it would import the code that model_index.json
names.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from forgetcli.checkpoint.pipeline_index import DISPENSABLE
from forgetcli.models import components
from forgetcli.process.quiet import quiet_libraries

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel


@quiet_libraries()
def text_to_image(model: LoadedModel) -> Any:
    """The pipeline that generates images from prompts alone.

    The class in the model's index may be an image-to-image pipeline, but such a pipeline has the
    same components.

    Raises:
        ModelError: a component cannot be loaded.
    """
    cls = _pipeline_class(model)
    accepted = inspect.signature(cls.__init__).parameters
    parts: dict[str, Any] = {
        name: value for name, value in model.index.settings.items() if name in accepted
    }
    # A safety checker would make images black, which would count as forgetting.
    parts |= {"requires_safety_checker": False, **dict.fromkeys(DISPENSABLE)}
    for encoder in model.ENCODERS:
        is_present = encoder in model.encoders
        parts[encoder.tokenizer] = model.tokenizer_of(encoder) if is_present else None
        parts[encoder.component] = getattr(model, encoder.component) if is_present else None
    parts[model.DENOISER] = model.denoiser
    parts["vae"] = model.vae
    parts["scheduler"] = components.scheduler(model.base)
    return cls(**{name: part for name, part in parts.items() if name in accepted})


def _pipeline_class(model: LoadedModel) -> Any:
    # Imported here, because the command line starts without diffusers.
    import diffusers
    from diffusers.utils import import_utils

    # diffusers' pipelines would import onnxruntime if it is installed, and onnxruntime's telemetry
    # looks up a host.
    import_utils._onnx_available = False
    name = model.TEXT_TO_IMAGE
    if model.INPAINTING:
        config = model.denoiser.config
        # An in-painting UNet reads latents, a mask and the latents of the masked image.
        if config.in_channels == 2 * config.out_channels + 1:
            name = model.INPAINTING
    return getattr(diffusers, name)
