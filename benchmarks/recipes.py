"""Apply and score every bundled recipe on the embedded model; print the README's tables.

    python benchmarks/recipes.py --output WORK [--preset reference]

Each recipe is applied twice: with an empty cache (cold) and again (warm).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.evaluation import evaluate
from forgetcli.pipeline.apply import apply

NAMES = ("art_styles", "objects", "scenes", "actions")


def percent(row: dict, key: str) -> str:
    low, high = row[f"{key}_ci"]
    return f"{100 * row[key]:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def main(output: Path, overrides: list[str], names: list[str]) -> None:
    os.environ["FORGET_CACHE_DIR"] = str(output / "cache")
    results = {}
    for name in names:
        recipe = recipes.load(name, overrides)
        cold = apply(recipe, output=output / name, force=True)
        warm = apply(recipe, output=output / name, force=True)
        scores = evaluate(
            output / name, recipe=recipe, output=output / f"{name}-pictures"
        ).as_dict()
        results[name] = {"cold": cold.as_dict(), "warm": warm.as_dict(), "eval": scores}
        (output / "results.json").write_text(json.dumps(results, indent=1))
        for side in ("baseline", "edited"):
            row = scores[side]
            print(
                f"| {name} | {'unedited' if side == 'baseline' else 'edited'} | "
                + " | ".join(
                    percent(row, k) for k in ("forget_direct", "forget_indirect", "retain", "h")
                )
                + " |",
                flush=True,
            )
    print()
    for name, result in results.items():
        for site in result["cold"]["sites"]:
            print(
                f"| {name} | {site['name']} | {site['null_dim']} | {site['eig_below']:.1e} / "
                f"{site['eig_above']:.1e} | {site['delta_rel']:.3f} | "
                f"{site['preserve_drift']:.1e} | {site['heldout_drift']:.1e} | "
                f"{site['rcond']:.1e} | {site['stored_error']:.1e} |"
            )
    for name, result in results.items():
        print(
            f"| {name} | cold {result['cold']['seconds']['total']:.0f} s | warm "
            f"{result['warm']['seconds']['total']:.0f} s, cache {result['warm']['cache']} | "
            f"eval {result['eval']['seconds']['total']:.0f} s for {result['eval']['n_images']} "
            f"pictures | check {result['cold']['check']} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("names", nargs="*", default=NAMES)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.overrides, args.names)
