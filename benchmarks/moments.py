"""Second moments of preserve prompts against the text encoder's own forward pass up to the last
edited layer.

    python benchmarks/moments.py WORK                         # width of Stable Diffusion 1.4's
    python benchmarks/moments.py WORK --width 256 --rounds 5
    python benchmarks/moments.py WORK --out new.json --compare old.json

The text encoder has 12 blocks and random weights; the sites are in blocks 1, 2 and 3. Everything
runs in one process on one thread, in turns, and is counted in processor seconds, so that ratios
hold on a shared machine. WORK/base-WIDTH is kept and used again.

`encoder` is the forward pass up to the last site and nothing else. `algebra` is the float64 product
of keys that the forward pass left, which every edit with second moments needs too. `moments` is
what `forget apply` runs, nothing cached.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import full_size
import torch

from forgetcli import models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.linalg import Moment
from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent

SITES = (1, 2, 3)
BATCH = 64


class Nothing(MomentCache):
    """A cache that never has anything and keeps nothing."""

    def load(self, identity):
        return None

    def store(self, identity, tensors):
        return True


class Reached(Exception):
    pass


def opened(work: Path, width: int) -> LoadedModel:
    """A model with a text encoder of this width, and a denoiser of a megabyte."""
    folder = work / f"base-{width}"
    if not folder.is_dir():
        text = {
            **full_size.REAL["text"],
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": max(width // 64, 1),
            "projection_dim": width,
        }
        unet = {**full_size.TINY["unet"], "cross_attention_dim": width}
        full_size.build(folder, {**full_size.TINY, "text": text, "unet": unet}, 8)
    return models.load(checkpoint.resolve(folder), device="cpu")


@contextmanager
def stopping(module: torch.nn.Module):
    def stop(*_):
        raise Reached

    hook = module.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()


def processor_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(model: LoadedModel, prompts: list[str], rounds: int) -> dict[str, list[float]]:
    sites = model.pick_sites(SITES)
    batches = list(tokenise(model.tokenizer, prompts).split(BATCH))
    encoder = model.encoders[0]

    @torch.no_grad()
    def forward():
        with stopping(sites[-1].module):
            for batch in batches:
                with suppress(Reached):
                    model.encoder_output(encoder, batch.ids)

    @torch.no_grad()
    def all_blocks():
        for batch in batches:
            model.encoder_output(encoder, batch.ids)

    # The keys of one batch, used for every batch: they are as many, and memory stays small.
    keys = [
        (batches[0].merge(found), batches[0].counts)
        for found in model.keys(sites, batches[0].ids).values()
    ]

    def algebra():
        for _ in batches:
            for columns, counts in keys:
                Moment.of(columns, counts)

    def moments():
        preserve_moments(model, sites, prompts, Nothing(), Silent())

    parts = {"encoder": forward, "all blocks": all_blocks, "algebra": algebra, "moments": moments}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for run in parts.values():  # the first pass of each pays for allocations
        run()
    for _ in range(rounds):
        for name, run in parts.items():
            seconds[name].append(processor_seconds(run))
    return seconds


def figures(width: int, prompts: list[str], seconds: dict[str, list[float]]) -> dict:
    typical = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "width": width,
        "prompts": len(prompts),
        "processor_seconds": typical,
        "prompts_per_second": {name: len(prompts) / value for name, value in typical.items()},
        "ratio_to_encoder": typical["encoder"] / typical["moments"],
        "ratio_to_encoder_and_algebra": (typical["encoder"] + typical["algebra"])
        / typical["moments"],
    }


def compared(now: dict, before: dict) -> str:
    lines = ["| what | before, s | now, s | ratio |", "| --- | --- | --- | --- |"]
    for name, value in now["processor_seconds"].items():
        old = before["processor_seconds"].get(name)
        if old:
            lines.append(f"| {name} | {old:.2f} | {value:.2f} | {old / value:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--width", type=int, default=768, help="of the text encoder")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, help="an earlier --out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    asked = full_size.preserved(args.prompts)
    result = figures(args.width, asked, measure(opened(args.work, args.width), asked, args.rounds))
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.compare:
        print(compared(result, json.loads(args.compare.read_text(encoding="utf-8"))))
