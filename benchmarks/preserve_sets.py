"""The bundled recipes with preserve sets in place of their lists; print docs/results.md's table.

    python benchmarks/preserve_sets.py --output WORK

Each recipe is applied as it is, with all preserve sets, and with these and the concepts that a
person would name beside them. Nothing else differs. An edit that the check refuses is scored too,
and the refusal is printed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.bundled import word_lists
from forgetcli.errors import EditError
from forgetcli.evaluation import evaluate
from forgetcli.pipeline.apply import apply

# The targets, and other concepts of the kind.
NEIGHBOURS = {
    "art_styles": [
        "monet", "watercolour", "flat illustration", "pixel art", "3d render", "pop art",
    ],
    "objects": [
        "a cat", "a hibiscus", "a fish", "a car", "a strawberry", "a rabbit", "a penguin",
        "a mushroom",
    ],
    "scenes": ["a mountain", "an island", "a rainbow", "fireworks", "a pine tree", "a wave"],
    "actions": [
        "a person swimming", "a person cycling", "a person surfing", "a person running",
    ],
}  # fmt: skip
MEASURES = ("forget_direct", "forget_indirect", "retain", "h")


def variants(name: str) -> dict[str, list[str]]:
    """Overrides of each variant."""
    sets = [f"preserve.sets={json.dumps(list(word_lists.SETS))}", "preserve.files=[]"]
    return {
        "list": [],
        "sets": sets,
        "neighbours": [*sets, f"preserve.prompts={json.dumps(NEIGHBOURS[name])}"],
    }


def percent(row: dict, key: str) -> str:
    low, high = row[f"{key}_ci"]
    return f"{100 * row[key]:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def main(output: Path, names: list[str]) -> None:
    os.environ["FORGET_CACHE_DIR"] = str(output / "cache")
    results = {}
    for name in names:
        applied, folders = {}, []
        for variant, overrides in variants(name).items():
            folder = output / f"{name}-{variant}"
            recipe = recipes.load(name, overrides)
            refused = ""
            try:
                done = apply(recipe, output=folder, force=True)
            except EditError as error:
                refused = error.message
                done = apply(recipe, output=folder, force=True, strict=False)
            applied[variant] = {**done.as_dict(), "refused": refused}
            folders.append(folder)
        scores = evaluate(
            folders, recipe=recipes.load(name), near_concepts=0, output=output / f"{name}-images"
        ).as_dict()
        results[name] = {"applied": applied, "eval": scores}
        (output / "preserve_sets.json").write_text(json.dumps(results, indent=1))
        for (variant, edit), model in zip(applied.items(), scores["models"], strict=True):
            row, check = model["edited"], edit["check"]
            distance = model["quality"]["distance"]
            low, high = distance["ci"]
            print(
                f"| {name} | {variant} | {' | '.join(percent(row, key) for key in MEASURES)} | "
                f"{distance['value']:.4f} ({low:.4f}–{high:.4f}) | "
                f"{100 * check['preserve_drift']:.1f} % | {edit['refused'] or 'accepted'} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=list(NEIGHBOURS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.names)
