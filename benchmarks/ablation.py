"""What each part of the null-space edit does: one change a row, on the tuning concepts.

    python benchmarks/ablation.py --output WORK [--rows default prior=0 …]

Each row edits the same twelve recipes (four concepts with plentiful prompts, with the pair alone, and with 20 preserve prompts) and
draws 14 pictures for each at equal prompts and seeds, with 10 sampler steps. Goes on where it was cut short.
"""
from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

from tune_methods import Bench, nested

from forgetcli.errors import EditError
from forgetcli.statistics import harmonic_interval, wilson

CASES = tuple((regime, label) for regime in ("single", "bare", "few") for label in ("van_gogh", "dog", "strawberry", "running"))
ROWS = {
    "unedited": ("none", {}),
    "default": ("nullspace", {}),
    "no words as a ridge (prior = 0)": ("nullspace", {"edit.prior": 0.0}),
    "λ = 0.01": ("nullspace", {"edit.lam": 0.01}),
    "λ = 0.01 and no ridge": ("nullspace", {"edit.lam": 0.01, "edit.prior": 0.0}),
    "cut at mean/90000": ("nullspace", {"edit.threshold": 1 / 90000}),
    "all positions": ("nullspace", {"edit.positions": "all"}),
    "empty prompt counted once": ("nullspace", {"edit.balance_empty": False}),
    "block 3 only": ("nullspace", {"edit.sites": [3]}),
    "all six blocks": ("nullspace", {"edit.sites": [0, 1, 2, 3, 4, 5]}),
    "10 steps": ("nullspace", {"refine.steps": 10}),
    "targets copied": ("nullspace", {"refine.mode": "copy"}),
    "matched through the denoiser": ("nullspace", {"refine.match": "denoiser", "refine.latent_steps": 6}),
    "reference form": ("nullspace", {"edit.preset": "reference"}),
}


def measured(bench: Bench, name: str, file: Path) -> dict:
    if file.exists():
        return json.loads(file.read_text())
    method, values = ROWS[name]
    start = time.time()
    try:
        found = bench.score(method, nested(values))
    except EditError as fault:
        found = {"error": fault.message}
    found |= {"name": name, "seconds": time.time() - start}
    file.write_text(json.dumps(found))
    return found


def cell(values: list[bool]) -> str:
    low, high = wilson(sum(values), len(values))
    return f"{sum(values) / len(values):.2f} ({low:.2f}–{high:.2f})"


def main(output: Path, names: list[str]) -> None:
    logging.disable(logging.WARNING)
    bench = Bench(CASES)
    print("| change | forget | retain | H | H with few preserve prompts | seconds an edit |\n| --- | --- | --- | --- | --- | --- |")
    for number, name in enumerate(ROWS):
        if name not in names:
            continue
        found = measured(bench, name, output / f"{number:02d}.json")
        if "error" in found:
            print(f"| {name} | {found['error']} | | | | |", flush=True)
            continue
        low, high = harmonic_interval(found["forgot"], found["kept"])
        print(f"| {name} | {cell(found['forgot'])} | {cell(found['kept'])} | {found['h']:.3f} ({low:.2f}–{high:.2f}) | {found['few']:.3f} "
              f"| {found['edit_seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.rows)
