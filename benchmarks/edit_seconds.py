"""Seconds of one edit by every method, in one process on a machine with nothing else to do, as
shares of ESD's at 1000 steps.

    python benchmarks/edit_seconds.py [--concepts 3]

Recipes for one tuning concept each with 20 preserve prompts; parameters as in regimes.py (tuned).
ESD is there twice: with the 200 steps
of 8 pictures of parameters.toml, and with 1000 steps of one picture, each from one noisy path a
prompt (the published code makes a new one in every step: `[sample] fresh`).
Model, cache and word statistics are warm. About three minutes.
"""

from __future__ import annotations

import argparse

import tomli
import world_recipes as words
from bench import Bench, mean

from forgetcli import recipe as recipes

THOUSAND = {"train": {"steps": 1000, "batch": 1, "lr": 5e-5}}
WHOLE = "esd, 1000 steps of one picture"


def main(count: int) -> None:
    bench, tuned = Bench(), tomli.loads(words.PARAMETERS.read_text())["methods"]
    runs = {
        name: (name, tuned.get(name, {})) for name in ("nullspace", "speed", "uce", "rece", "esd")
    } | {WHOLE: ("esd", THOUSAND)}
    chosen = [label for label in words.TUNING if label in words.THINGS][:count]
    made = [
        recipes.parse(words.recipe([label], words.others([label], 12), few=20, unnamed=True))
        for label in chosen
    ]
    bench.edit(made[0], "nullspace", {})  # the vocabulary's second moments, once
    bench.made.clear()
    found = {}
    for name, (method, tables) in runs.items():
        edits = [(recipe, *bench.edit(recipe, method, tables)) for recipe in made]
        seen = [bench.look(recipe, edit) for recipe, edit, _ in edits]
        found[name] = (
            mean([seconds for *_, seconds in edits]),
            mean([value for s in seen for value in s.forgot]),
            mean([value for s in seen for value in s.kept]),
        )
    print(
        "| method | seconds an edit | share of ESD's | forget | retain |\n| --- | --- | --- | --- "
        "| --- |"
    )
    for name, (seconds, forgot, kept) in found.items():
        print(
            f"| {name} | {seconds:.2f} | 1/{found[WHOLE][0] / seconds:.1f} | {forgot:.2f} | "
            f"{kept:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=int, default=3)
    main(parser.parse_args().concepts)
