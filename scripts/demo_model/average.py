"""Average two trained models, weight by weight: forgetcli/bundled/model lies half way between two
stages of one training.

What the later stage has learnt better and what it has begun to forget balance out. The share was
chosen on prompts in training
templates, never on the held-out ones.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

FILES = ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")


def main(earlier: Path, later: Path, output: Path, share: float) -> None:
    shutil.copytree(later, output)
    for name in FILES:
        first, second = load_file(earlier / name), load_file(later / name)
        mixed = {
            key: first[key].float().lerp(second[key].float(), share).half().contiguous()
            for key in first
        }
        save_file(mixed, output / name, metadata={"format": "pt"})
        (output / name).chmod(0o644)  # safetensors writes 0600


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--earlier", type=Path, required=True)
    parser.add_argument("--later", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the later one")
    args = parser.parse_args()
    main(args.earlier, args.later, args.output, args.share)
