"""The estimates of `forget apply --dry-run` beside what the same edit then needed: seconds, peak
memory and disk.

    python benchmarks/estimates.py WORK                  # the embedded model and tiny pipelines of
                                                         three other families
    python benchmarks/estimates.py WORK --only demo

Every dry run and every edit is a process of its own, `forget` as a user runs it; seconds are those
of the whole process, memory is its
largest resident set, disk what the output and the cache grew by (`--copy`: nothing is shared).
"Cold" starts with an empty cache,
"warm" is the same edit again. Tiny pipelines are built from configurations by the tests' own
builders; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"
direct = ["a sketch by van gogh"]
indirect = ["starry night"]

[prompts]
templates = ["{}", "a painting by {}"]

[preserve]
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[edit]
sites = [1, 2]
min_rank = 16
"""
# name → model, recipe, what more is said to `forget apply`
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("demo", "objects", ()),
    "demo, denoiser": ("demo", "objects", ("--set", "refine.match=denoiser")),
    "demo, uce": ("demo", "objects", ("--method", "uce")),
    "sdxl": ("tiny_sdxl", "tiny.toml", ()),
    "sd3": ("tiny_sd3", "tiny.toml", ()),
    "flux": ("tiny_flux", "tiny.toml", ("--set", 'edit.encoders=["clip","t5"]')),
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("work", type=Path)
    options.add_argument(
        "--only", action="append", choices=CASES, help="a case; may be given again"
    )
    chosen = options.parse_args()
    work: Path = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    (work / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    print(
        "| edit | cache | seconds: estimated | measured | memory, MB: estimated | measured | "
        "disk, MB: estimated | measured |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in chosen.only or CASES:
        model, recipe, more = CASES[name]
        where = model if model == "demo" else str(built(work, model))
        shutil.rmtree(work / "cache", ignore_errors=True)
        for cache in ("cold", "warm"):
            row = measured(
                work,
                "apply",
                str(work / recipe if recipe.endswith(".toml") else recipe),
                "--model",
                where,
                "--device",
                "cpu",
                *more,
            )
            print(f"| {name} | {cache} | {' | '.join(row)} |", flush=True)


def built(work: Path, builder: str) -> Path:
    """A tiny pipeline of `tests/pipelines.py`, made once."""
    folder = work / builder
    if not (folder / "model_index.json").is_file():
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import pipelines, pathlib; pipelines.{builder}(pathlib.Path({str(folder)!r}))",
            ],
            check=True,
            cwd=ROOT / "tests",
            capture_output=True,
        )
    return folder


def measured(work: Path, *command: str) -> list[str]:
    """The row's figures: what was estimated, then what was needed."""
    estimates = run(work, *command, "--dry-run")[0]["estimates"]
    before, out = size(work / "cache"), work / "edited"
    shutil.rmtree(out, ignore_errors=True)
    data, seconds = run(work, *command, "--lenient", "--copy", "-o", str(out))
    disk = size(out) + size(work / "cache") - before
    return [
        figure(estimates["seconds"], 1),
        figure(seconds, 1),
        figure(estimates["memory_bytes"], 1e6),
        figure(data["peak_rss"], 1e6),
        figure(estimates["disk_bytes"] + estimates["cache_bytes"], 1e6),
        figure(disk, 1e6),
    ]


def run(work: Path, *command: str) -> tuple[dict[str, Any], float]:
    """`forget … --json`, and the seconds that the process took."""
    environment = {**os.environ, "FORGET_CACHE_DIR": str(work / "cache"), "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "forgetcli", *command, "--json"],
        env=environment,
        cwd=work,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout), time.perf_counter() - started


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def figure(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value / unit:.1f}"


if __name__ == "__main__":
    main()
