"""The metadata in the header of an exported file, by the SAI Model Spec 1.0.0. ComfyUI, A1111 and
other tools show it.
"""

from __future__ import annotations

import tomllib
from pathlib import PurePath

from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint.single_file import SingleFile
from forgetcli.errors import ForgetError

XL = "StableDiffusionXL"
LONGEST_LIST = 60  # characters of the list of concepts in a title


def modelspec(
    edited: EditedModel, kind: str = "", implementation: str = "diffusers"
) -> dict[str, str]:
    """The metadata of an exported file.

    Args:
        kind: ``lora`` or another kind of adapter; empty for a whole model.
        implementation: the code whose tensor names the file uses: ``diffusers`` or a URL.
    Source: github.com/Stability-AI/ModelSpec; kohya's sd-scripts for ``architecture/lora``.
    """
    forgotten = ", ".join(concepts(edited)) or "nothing"
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": architecture(edited) + (f"/{kind}" if kind else ""),
        "implementation": implementation,
        "title": _title(edited),
        "description": f"Edited by forget ({edited.manifest.method}) to forget: {forgotten}.",
        "date": str(edited.manifest.run_details.get("metadata", {}).get("finishedOn", "")),
        "resolution": _resolution(edited),
        "prediction_type": _prediction(edited),
    }
    return {f"modelspec.{key}": value for key, value in spec.items() if value}


def architecture(edited: EditedModel) -> str:
    """The spec's name of the model family, or the pipeline's class if the spec has none."""
    pipeline = str(edited.index.get("_class_name", ""))
    inpainting = "-inpainting" if edited.config("unet").get("in_channels") == 9 else ""
    if pipeline.startswith(XL):
        return "stable-diffusion-xl-v1-base" + inpainting
    if not pipeline.startswith("StableDiffusion") or not edited.config("unet"):
        return pipeline
    # The text encoder of Stable Diffusion 2.x is OpenCLIP's, with the activation gelu.
    if edited.config("text_encoder").get("hidden_act") != "gelu":
        return "stable-diffusion-v1" + inpainting
    if _prediction(edited) == "v":
        return "stable-diffusion-v2-768-v" + inpainting
    return "stable-diffusion-v2-512" + inpainting


def concepts(edited: EditedModel) -> list[str]:
    """The concepts of the recipe in order; empty if the recipe cannot be read."""
    try:
        recipe = tomllib.loads(edited.recipe_bytes.decode("utf-8"))
        return [str(entry["concept"]) for entry in recipe.get("concepts", [])]
    except (ForgetError, OSError, ValueError, KeyError, TypeError, AttributeError):
        # Not an error, because only people read the title and the description.
        return []


def _base(edited: EditedModel) -> str:
    """The base model's name; of a path only the last part, as folders mean nothing elsewhere."""
    return PurePath(edited.manifest.base_id).name


def _title(edited: EditedModel) -> str:
    forgotten = ", ".join(concepts(edited))
    if 0 < len(forgotten) <= LONGEST_LIST:
        return f"{_base(edited)} without {forgotten}"
    return f"{_base(edited)}, edited"


def _resolution(edited: EditedModel) -> str:
    latents = edited.config("unet").get("sample_size")
    blocks = edited.config("vae").get("block_out_channels")
    if not isinstance(latents, int) or not isinstance(blocks, list):
        return ""
    pixels = latents * 2 ** (len(blocks) - 1)
    return f"{pixels}x{pixels}"


def _prediction(edited: EditedModel) -> str:
    settings = edited.config("scheduler")
    if edited.file:
        settings = SingleFile(edited.folder, edited.file.name).scheduler_settings(settings)
    kind = settings.get("prediction_type", "")
    return {"v_prediction": "v", "epsilon": "epsilon"}.get(kind, "")
