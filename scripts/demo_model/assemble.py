"""Put the trained parts together as a diffusers folder in float16: forgetcli/bundled/model."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from captions import heldout
from safetensors.torch import load_file, save_file

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def main(work: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    for name in ("text_encoder", "unet", "vae", "scheduler", "tokenizer"):
        shutil.copytree(work / name, output / name)
    for name, file in WEIGHTS.items():
        tensors = {k: v.half().contiguous() for k, v in load_file(output / name / file).items()}
        if name == "text_encoder":  # the prefix that older transformers and other tools read
            tensors = {
                k if k.startswith("text_model.") else f"text_model.{k}": v
                for k, v in tensors.items()
            }
        save_file(tensors, output / name / file, metadata={"format": "pt"})
        (output / name / file).chmod(0o644)
        config = json.loads((output / name / "config.json").read_text())
        config.pop("_name_or_path", None)
        (output / name / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n"
        )
    (output / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    (output / "heldout.json").write_text(json.dumps(heldout(), indent=1) + "\n")
    print(
        f"{sum(f.stat().st_size for f in output.rglob('*') if f.is_file()) / 1e6:.1f} MB in {output}"  # noqa: E501
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[2] / "forgetcli/bundled/model"
    )
    args = parser.parse_args()
    main(args.work, args.output)
