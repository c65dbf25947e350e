"""How the time of an edit grows with prompts, concepts and width, and its memory with prompts and
concepts: small models, one thread, processor seconds, and the exponent of a power law through the
points.

    python benchmarks/scaling.py WORK --out scaling.json
    python benchmarks/scaling.py WORK --only concepts

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
from typing import Any

import full_size
import torch
from moments import SITES, Nothing, opened, processor_seconds

from forgetcli import methods, models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.editing.task import Task
from forgetcli.linalg import null_projector
from forgetcli.models.base import LoadedModel
from forgetcli.models.vocabulary import words
from forgetcli.pipeline import memory
from forgetcli.progress import Silent

PROMPTS = (32, 64, 128, 256)
WIDTHS = (64, 128, 256)
CONCEPTS = (1, 10, 100, 1000)
METHODS = ("uce", "speed", "nullspace")
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


def generated_pairs(model: LoadedModel, count: int) -> tuple[tuple[str, str], ...]:
    """So many concepts, each named by two words of the vocabulary, with one target."""
    known = words(model.tokenizer)
    n = len(known)
    names = [f"{known[i % n]} {known[(7 * i + i // n + 1) % n]}" for i in range(count)]
    assert len(set(names)) == count
    return tuple((f"a picture of {name}", "a picture of a house") for name in names)


def edit_of(method: str, concepts: int, cache: MomentCache) -> Callable[[], object]:
    """An edit of the embedded model, second moments cached by the first call."""
    model = models.load(checkpoint.resolve("demo"), device="cpu")
    preserve = ("", *full_size.preserved(PRESERVED))
    task = Task(generated_pairs(model, concepts), preserve, moments=cache)
    settings = {"refine": {"steps": 4}} if method == "nullspace" else {}
    parameters = methods.get(method).Parameters.model_validate(settings)
    return lambda: methods.load_edit(method)(model, task, parameters, Silent())


def cost_of(work: Path, method: str, concepts: int) -> dict[str, float]:
    """Processor seconds and peak bytes of an edit, in this process, after one of a single concept.

    The first edit loads the networks and caches the second moments.
    """
    cache = MomentCache(work / "cache")
    edit_of(method, 1, cache)()
    first = memory.peak_rss()
    run = edit_of(method, concepts, cache)
    if (
        concepts <= CONCEPTS[1]
    ):  # short enough for a second call, without what only a first one does
        run()
    return {"seconds": processor_seconds(run), "bytes": memory.peak_rss(), "first": first}


def concepts_of(work: Path) -> dict[str, dict]:
    """The cost of each method's edits by number of concepts, each in a process of its own."""
    found = {}
    for method in METHODS:
        cost = {n: apart("cost_of", work, method, n) for n in CONCEPTS}
        found[method] = {
            **cost,
            "exponent": exponent([(n, each["seconds"]) for n, each in cost.items()]),
            "last exponent": exponent([(n, cost[n]["seconds"]) for n in CONCEPTS[-2:]]),
        }
        print(method, found[method], file=sys.stderr)
    return found


def apart(name: str, work: Path, *arguments: object) -> Any:
    """The result of a function of this module in a process of its own, with one thread."""
    code = (
        "import json, pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "import scaling, torch; torch.set_num_threads(1)\n"
        "work, arguments = pathlib.Path(sys.argv[3]), json.loads(sys.argv[4])\n"
        "print(json.dumps(getattr(scaling, sys.argv[2])(work, *arguments)))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), name, str(work)]
    done = subprocess.run(
        [*command, json.dumps(arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak(work: Path, prompts: int) -> int:
    """Bytes at the peak of this process, which computes the second moments of so many prompts."""
    moments_of(work, NARROW, prompts)()
    return memory.peak_rss()


def main(work: Path, only: str | None = None) -> dict:
    work.mkdir(parents=True, exist_ok=True)
    if only == "concepts":
        return {"concepts": concepts_of(work)}
    return {
        "prompts": curve(PROMPTS, lambda n: moments_of(work, NARROW, n)),
        "width, moments of 64 prompts": curve(WIDTHS, lambda d: moments_of(work, d, 64)),
        "width of a site, null space": curve(
            [4 * width for width in WIDTHS], lambda d: projector_of(d)
        ),
        "concepts": concepts_of(work),
        "peak bytes by prompts": {n: apart("peak", work, n) for n in (PROMPTS[0], PROMPTS[-1])},
        "process": memory.peak_rss(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["concepts"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = main(args.work, args.only)
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
