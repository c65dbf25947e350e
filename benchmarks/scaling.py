"""How the time of an edit grows with prompts, concepts and width, and its memory with prompts:
small models, one thread, processor seconds, and the exponent of a power law through the points.

    python benchmarks/scaling.py WORK --out scaling.json

Time is c·nᵏ in a range: k is fitted to the logarithms. WORK gets a few models of some megabytes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import full_size
import torch
from moments import SITES, Nothing, opened, processor_seconds

from forgetcli import methods, models
from forgetcli.bundled.demo import world
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.editing.task import Task
from forgetcli.linalg import null_projector
from forgetcli.pipeline import memory
from forgetcli.progress import Silent

PROMPTS = (32, 64, 128, 256)
WIDTHS = (64, 128, 256)
CONCEPTS = (1, 2, 4, 8, 16)
NARROW = 64  # width of the encoder where prompts grow
PRESERVED = 64


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the logarithm of the second number over that of the first."""
    x, y = ([math.log(point[i]) for point in points] for i in (0, 1))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def curve(sizes: Sequence[int], run: Callable[[int], Callable[[], object]]) -> dict:
    """Seconds by size and their exponent. The first call of each size only warms up."""
    seconds = {}
    for size in sizes:
        each = run(size)
        each()
        seconds[size] = processor_seconds(each)
    return {"seconds": seconds, "exponent": exponent(list(seconds.items()))}


def moments_of(work: Path, width: int, prompts: int) -> Callable[[], object]:
    model = opened(work, width)
    sites, asked = model.pick_sites(SITES), full_size.preserved(prompts)
    return lambda: preserve_moments(model, sites, asked, Nothing(), Silent())


def projector_of(width: int) -> Callable[[], object]:
    keys = torch.randn(width, 2 * width, dtype=torch.float64)
    moment = keys @ keys.T
    return lambda: null_projector(moment, 3 / 1000, 10)


def edit_of(method: str, concepts: int, cache: MomentCache) -> Callable[[], object]:
    """An edit of the embedded model, second moments cached."""
    model = models.load(checkpoint.resolve("demo"), device="cpu")
    names = [entry["names"][0] for entry in world()["things"].values()]
    pairs = tuple(
        (f"a picture of {name}", f"a picture of {names[-1]}") for name in names[:concepts]
    )
    task = Task(pairs, ("", *full_size.preserved(PRESERVED)), moments=cache)
    settings = {"refine": {"steps": 4}} if method == "nullspace" else {}
    parameters = methods.get(method).Parameters.model_validate(settings)
    return lambda: methods.load_edit(method)(model, task, parameters, Silent())


def peak(work: Path, prompts: int) -> int:
    """Bytes at the peak of a process that computes the second moments of so many prompts."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import scaling, pathlib, torch; torch.set_num_threads(1)\n"
        "scaling.moments_of(pathlib.Path(sys.argv[2]), scaling.NARROW, int(sys.argv[3]))()\n"
        "print(scaling.memory.peak_rss())"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(work), str(prompts)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main(work: Path) -> dict:
    work.mkdir(parents=True, exist_ok=True)
    cache = MomentCache(work / "cache")
    return {
        "prompts": curve(PROMPTS, lambda n: moments_of(work, NARROW, n)),
        "width, moments of 64 prompts": curve(WIDTHS, lambda d: moments_of(work, d, 64)),
        "width of a site, null space": curve(
            [4 * width for width in WIDTHS], lambda d: projector_of(d)
        ),
        "concepts, nullspace": curve(CONCEPTS, lambda n: edit_of("nullspace", n, cache)),
        "concepts, uce": curve(CONCEPTS, lambda n: edit_of("uce", n, cache)),
        "concepts, speed": curve(CONCEPTS, lambda n: edit_of("speed", n, cache)),
        "peak bytes by prompts": {n: peak(work, n) for n in (PROMPTS[0], PROMPTS[-1])},
        "process": memory.peak_rss(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = main(args.work)
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
