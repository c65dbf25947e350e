"""Pictures a second of `forget eval` (drawing, judging, quality, report) against a plain loop over
the diffusers pipeline.

    python benchmarks/eval_speed.py --edited EDITED

Both draw the same prompts with the same steps and batch in this process, in turn; the ratio is what
counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from forgetcli import evaluation, report
from forgetcli.checkpoint import base
from forgetcli.generation.generate import GUIDANCE


def plain(folders: list[Path], asked: list[tuple[str, int]], batch: int) -> float:
    start = time.perf_counter()
    for folder in folders:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, safety_checker=None
        )
        pipeline.set_progress_bar_config(disable=True)
        for k in range(0, len(asked), batch):
            part = asked[k : k + batch]
            pipeline(
                [p for p, _ in part],
                num_inference_steps=20,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(s) for _, s in part],
            )
    return time.perf_counter() - start


def forget(
    edited: Path, output: Path, batch: int
) -> tuple[float, list[tuple[str, int]], list[Path]]:
    start = time.perf_counter()
    result = evaluation.evaluate(edited, output=output, batch=batch)
    report.write(output, result, result.as_dict(), title="speed", command="")
    seconds = time.perf_counter() - start
    asked = list(
        dict.fromkeys((a.question.prompt, a.seed) for a in result.baseline.answers)
    )  # each picture once, as eval does
    return seconds, asked, [r.subject.base.folder for r in result.runs]


def main(edited: Path, rounds: int, batch: int) -> None:
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as output:
            ours, asked, folders = forget(edited, Path(output), batch)
        theirs = plain(folders, asked, batch)
        n = len(asked) * len(folders)
        print(
            f"eval {n / ours:.2f} pictures/s, plain loop {n / theirs:.2f}, ratio "
            f"{theirs / ours:.3f}, n = {n}, batch {batch}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edited", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    base.resolve(args.edited)
    main(args.edited, args.rounds, args.batch)
