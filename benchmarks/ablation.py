"""What each part of the null-space edit does: one change a row, on the tuning concepts.

    python benchmarks/ablation.py --output WORK [--rows default prior=0 …]

Each row edits the same six recipes (two concepts with plentiful prompts, with 20 preserve prompts,
and with preserve prompts that name
nothing of what retain is measured on) and draws 26 pictures for each at equal prompts and seeds,
with 10 sampler steps. Goes on where it was cut short.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench import Bench, mean, nested
from tune_methods import scored, tuning_recipes

from forgetcli.errors import EditError
from forgetcli.evaluation.intervals import harmonic_interval, wilson

CASES = tuple(
    (regime, label) for regime in ("single", "few", "unnamed") for label in ("van_gogh", "running")
)
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
    "8 steps": ("nullspace", {"refine.steps": 8}),
    "40 steps": ("nullspace", {"refine.steps": 40}),
    "no damping": ("nullspace", {"refine.damping": 0.0}),
    "no damping, 40 steps": ("nullspace", {"refine.damping": 0.0, "refine.steps": 40}),
    "damping 0.3": ("nullspace", {"refine.damping": 0.3}),
    "damping 3": ("nullspace", {"refine.damping": 3.0}),
    "damping 10": ("nullspace", {"refine.damping": 10.0}),
    "no words, damping 0.3": ("nullspace", {"edit.prior": 0.0, "refine.damping": 0.3}),
    "no words, damping 3": ("nullspace", {"edit.prior": 0.0, "refine.damping": 3.0}),
    "no words, damping 10": ("nullspace", {"edit.prior": 0.0, "refine.damping": 10.0}),
    "no words, relative to the weight": (
        "nullspace",
        {"edit.prior": 0.0, "refine.price": "weight"},
    ),
    "targets copied": ("nullspace", {"refine.mode": "copy"}),
    "matched through the denoiser": (
        "nullspace",
        {"refine.match": "denoiser", "refine.latent_steps": 6},
    ),
    "reference form": ("nullspace", {"edit.preset": "reference"}),
}


def measured(bench: Bench, made: list, name: str, file: Path) -> dict:
    if file.exists():
        return json.loads(file.read_text())
    method, values = ROWS[name]
    try:
        found = {"name": name, **scored(bench, made, method, nested(values))}
    except EditError as fault:
        found = {"name": name, "error": fault.message}
    file.write_text(json.dumps(found))
    return found


def cell(values: list[bool]) -> str:
    low, high = wilson(sum(values), len(values))
    return f"{mean(values):.2f} ({low:.2f}–{high:.2f})"


def main(output: Path, names: list[str]) -> None:
    bench, made = Bench(), tuning_recipes(CASES, kept=20)
    print(
        "| change | forget | retain | H | H with few preserve prompts | seconds an edit |\n| --- "
        "| --- | --- | --- | --- | --- |"
    )
    for number, name in enumerate(ROWS):
        if name not in names:
            continue
        found = measured(bench, made, name, output / f"{number:02d}.json")
        if "error" in found:
            print(f"| {name} | {found['error']} | | | | |", flush=True)
            continue
        low, high = harmonic_interval(found["forgot"], found["kept"])
        print(
            f"| {name} | {cell(found['forgot'])} | {cell(found['kept'])} | {found['h']:.3f} "
            f"({low:.2f}–{high:.2f}) | {found['few']:.3f} "
            f"| {found['edit_seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.rows)
