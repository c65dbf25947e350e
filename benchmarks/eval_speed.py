"""Processor seconds of `forget eval` (generating, judging, quality, report) against a plain loop
over the diffusers pipeline, with an empty cache and with the unedited model's images in it.

    python benchmarks/eval_speed.py --edited EDITED
    python benchmarks/eval_speed.py --edited EDITED --steps 4 --out new.json --compare old.json

All generate the same prompts with the same steps and batch in this process, on one thread, in
turns. The ratio is what counts: above 1, `forget eval` is faster than the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from forgetcli import evaluation, report
from forgetcli.generation.generate import GUIDANCE


def plain(folders: list[Path], asked: list[tuple[str, int]], steps: int, batch: int) -> float:
    start = time.process_time()
    for folder in folders:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, safety_checker=None
        )
        pipeline.set_progress_bar_config(disable=True)
        for k in range(0, len(asked), batch):
            part = asked[k : k + batch]
            pipeline(
                [p for p, _ in part],
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(s) for _, s in part],
            )
    return time.process_time() - start


def forget(edited: Path, steps: int, batch: int) -> tuple[float, list[tuple[str, int]], list[Path]]:
    with tempfile.TemporaryDirectory() as output:
        start = time.process_time()
        result = evaluation.evaluate(
            edited, output=Path(output), steps=steps, batch=batch, device="cpu"
        )
        report.write(Path(output), result, result.as_dict(), title="speed", command="")
        seconds = time.process_time() - start
    asked = list(
        dict.fromkeys((a.question.prompt, a.seed) for a in result.baseline.answers)
    )  # each image once, as eval does
    return seconds, asked, [r.subject.base.folder for r in result.runs]


def main(edited: Path, rounds: int, steps: int, batch: int) -> dict:
    seconds: dict[str, list[float]] = {"cold": [], "cached": [], "plain loop": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FORGET_CACHE_DIR"] = cache
            ours, asked, folders = forget(edited, steps, batch)
            seconds["cold"].append(ours)
            seconds["cached"].append(forget(edited, steps, batch)[0])
        seconds["plain loop"].append(plain(folders, asked, steps, batch))
    typical = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "images": len(asked) * len(folders),
        "steps": steps,
        "batch": batch,
        "processor_seconds": typical,
        "ratio": {name: typical["plain loop"] / typical[name] for name in ("cold", "cached")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edited", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, help="an earlier --out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = main(args.edited, args.rounds, args.steps, args.batch)
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if args.compare:
        before = json.loads(args.compare.read_text(encoding="utf-8"))
        for name, ratio in figures["ratio"].items():
            print(f"{name}: {before['ratio'].get(name, float('nan')):.3f} before, {ratio:.3f} now")
