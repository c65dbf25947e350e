"""What a file says of itself in its header, in the words of the SAI Model Spec 1.0.0, which
ComfyUI, A1111 and others show.
"""

from __future__ import annotations

import tomllib
from pathlib import PurePath

from forgetcli.artifact.edited import Edited

XL = "StableDiffusionXL"


def modelspec(edited: Edited, kind: str = "", implementation: str = "diffusers") -> dict[str, str]:
    """Metadata of an exported file.

    Args:
        kind: of an adapter: ``lora``.
        implementation: whose names the tensors have: ``diffusers``, ``kohya-ss/sd-scripts``, or the
            URL of a code base.
    Source: github.com/Stability-AI/ModelSpec; ``architecture/lora`` as kohya's sd-scripts write it.
    """
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": architecture(edited) + (f"/{kind}" if kind else ""),
        "implementation": implementation,
        "title": _title(edited),
        "description": f"Edited by forget ({edited.manifest.method}) to forget: {', '.join(concepts(edited)) or 'nothing'}.",
        "date": str(edited.manifest.run_details.get("metadata", {}).get("finishedOn", "")),
        "resolution": _resolution(edited),
        "prediction_type": _prediction(edited),
    }
    return {f"modelspec.{key}": value for key, value in spec.items() if value}


def architecture(edited: Edited) -> str:
    """The family in the spec's words; the pipeline's class where it has none."""
    pipeline = str(edited.index.get("_class_name", ""))
    inpainting = "-inpainting" if edited.config("unet").get("in_channels") == 9 else ""
    if pipeline.startswith(XL):
        return "stable-diffusion-xl-v1-base" + inpainting
    if not pipeline.startswith("StableDiffusion") or not edited.config("unet"):
        return pipeline
    if edited.config("text_encoder").get("hidden_act") != "gelu":  # OpenCLIP, which 2.x uses
        return "stable-diffusion-v1" + inpainting
    return (
        "stable-diffusion-v2-768-v" if _prediction(edited) == "v" else "stable-diffusion-v2-512"
    ) + inpainting


def concepts(edited: Edited) -> list[str]:
    """The concepts of the recipe, in its order."""
    try:
        found = tomllib.loads(edited.manifest.recipe_path.read_text(encoding="utf-8")).get(
            "concepts", []
        )
        return [str(concept["concept"]) for concept in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # only words for people


def _base(edited: Edited) -> str:
    return PurePath(edited.manifest.base_id).name  # a path here means nothing elsewhere


def _title(edited: Edited) -> str:
    without = ", ".join(concepts(edited))
    return (
        f"{_base(edited)} without {without}"
        if 0 < len(without) <= 60
        else f"{_base(edited)}, edited"
    )


def _resolution(edited: Edited) -> str:
    latent, blocks = (
        edited.config("unet").get("sample_size"),
        edited.config("vae").get("block_out_channels"),
    )
    if not isinstance(latent, int) or not isinstance(blocks, list):
        return ""
    size = latent * 2 ** (len(blocks) - 1)
    return f"{size}x{size}"


def _prediction(edited: Edited) -> str:
    kind = edited.config("scheduler").get("prediction_type", "")
    return {"v_prediction": "v", "epsilon": "epsilon"}.get(kind, "")
