"""Generate images with stable-diffusion.cpp. Runs in the environment that has its Python binding:

    python sd_cpp_client.py JOBS

JOBS is a JSON file: a list of {"model", "prompts", "loras", "image"}. The image of the n-th prompt
is written to "image" with "{}" replaced by n.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion

for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    model = StableDiffusion(
        model_path=job["model"], lora_model_dir=job["loras"], n_threads=1, rng_type="cpu"
    )
    for number, prompt in enumerate(job["prompts"]):
        (image,) = model.generate_image(
            prompt=prompt, width=64, height=64, sample_steps=2, sample_method="euler",
            cfg_scale=7.0, seed=1,
        )  # fmt: skip
        image.save(job["image"].format(number))
    model.close()
