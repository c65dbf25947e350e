"""All methods where they differ: the regimes of the comparison, each over several concepts, one table a regime.

    python benchmarks/regimes.py --output WORK [--quick] [--regimes single bare] [--methods nullspace,uce]

single   one concept at a time, 20 concepts of all four groups
bare     the same, but the edit sees only "concept" → "target"
few      the same, with 20 preserve prompts
near     the same, retain measured on the five nearest concepts in the text encoder
ten, twenty, all    so many things in one recipe, retain measured on the rest

Every row: forget on prompts that no edit saw, retain, H, beside the unedited model; the ceiling is H of perfect forgetting with the
unedited model's own retain. Goes on where it was cut short. Parameters of all methods: benchmarks/parameters.toml.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import world_recipes as words

from forgetcli import recipe as recipes
from forgetcli.comparison import compare
from forgetcli.statistics import harmonic

STEPS = 10                                                            # of the sampler: half of the default, for twice the pictures
MANY = {"ten": 10, "twenty": 20, "all": len(words.THINGS)}
REGIMES = ("single", "bare", "few", "near", *MANY)
KEYS = ("forget_direct", "forget_indirect", "retain", "h")


def of(regime: str, concepts: list[str]) -> list[recipes.Recipe]:
    """The recipes of a regime."""
    tables = "\n" + words.PARAMETERS.read_text()
    if regime in MANY:
        forgotten = words.THINGS if regime == "all" else [words.THINGS[i * len(words.THINGS) // MANY[regime]] for i in range(MANY[regime])]
        return [named(words.recipe(forgotten, words.others(forgotten, 30), tables=tables), regime)]
    made = []
    for label in concepts:
        kept = words.nearest(label) if regime == "near" else words.others([label], 12)
        made.append(named(words.recipe([label], kept, asked=3 if regime == "near" else None, bare=regime == "bare", few=20 if regime == "few" else None,
                                       tables=tables), f"{regime}-{label}"))
    return made


def named(text: str, name: str) -> recipes.Recipe:
    return recipes.parse(f'name = "{name}"\n' + text)


def cell(row: dict, key: str) -> str:
    if row.get(key) is None:
        return "–"
    low, high = row[f"{key}_ci"]
    return f"{row[key]:.3f} ({low:.2f}–{high:.2f})"


def main(output: Path, names: list[str], methods: str, count: int, quick: bool) -> None:
    results = {}
    for regime in names:
        given = of(regime, words.HELDOUT[:count])
        data = compare(given, methods=methods, steps=STEPS, quick=quick, features=None, output=output / regime).as_dict()
        results[regime] = {"methods": data["methods"], "concepts": [r.name for r in given], "seconds": data["seconds"]}
        (output / "results.json").write_text(json.dumps(results, indent=1, default=str))
        ceiling = harmonic(1.0, data["methods"][0]["retain"])
        print(f"\n**{regime}** ({len(given)} recipes, ceiling {ceiling:.3f})\n\n| method | forget, direct | forget, indirect | retain | H | of the ceiling | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for row in data["methods"]:
            share = f"{row['h'] / ceiling:.2f}" if row.get("h") is not None else "–"
            seconds = f"{row['seconds']:.1f}" if isinstance(row.get("seconds"), float) else "–"
            print(f"| {row['name']} | " + " | ".join(cell(row, key) for key in KEYS) + f" | {share} | {seconds} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--concepts", type=int, default=20, help="how many of the held-out concepts")
    parser.add_argument("--quick", action="store_true", help="one concept, three prompts of a kind")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.regimes, args.methods, 1 if args.quick else args.concepts, args.quick)
