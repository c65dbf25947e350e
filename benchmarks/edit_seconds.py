"""Seconds of one edit by every method, in one process, as shares of ESD's at its published budget.

    python benchmarks/edit_seconds.py [--concepts 3]

Recipes for one tuning concept each with 20 preserve prompts and all words as the prior; parameters
as in regimes.py (tuned). ESD is there three times: with the 200 steps of 8 pictures of
parameters.toml; with 1000 steps of one picture, each from one noisy path a prompt; and as its
authors' later code has it, 200 steps of one picture, each from a new run of 50 sampler steps. Model
and the vocabulary's second moments are warm. Some ten minutes on one core.
"""

from __future__ import annotations

import argparse

import tomli
import world_recipes as words
from bench import Bench, mean

from forgetcli import recipe as recipes

METHODS = ("nullspace", "uce", "rece", "speed", "mace-cf", "oce", "dp", "hirm", "esd")
THOUSAND = {"train": {"steps": 1000, "batch": 1, "lr": 5e-5}}
PUBLISHED = "esd, preset 'authors'"


def main(count: int) -> None:
    bench, tuned = Bench(), tomli.loads(words.PARAMETERS.read_text())["methods"]
    runs = {name: (name, tuned.get(name, {})) for name in METHODS} | {
        "esd, 1000 steps of one picture": ("esd", THOUSAND),
        PUBLISHED: ("esd", {"train": {"preset": "authors"}}),
    }
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
        "| method | seconds an edit | share of the last row | forget | retain |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name, (seconds, forgot, kept) in found.items():
        print(
            f"| {name} | {seconds:.2f} | 1/{found[PUBLISHED][0] / seconds:.1f} | {forgot:.2f} | "
            f"{kept:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=int, default=3)
    main(parser.parse_args().concepts)
