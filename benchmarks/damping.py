"""Whether `[refine] damping` means the same with a prior and without one, on tuning concepts.

    python benchmarks/damping.py [--concepts 1]

One edit of `nullspace` a row: prior, damping, what it is relative to (`[refine] price`); the loss
that is left, which is the mismatch relative to the unedited model's plus damping · cost; ‖Δ‖/‖W‖ at
the three sites; pictures in which the concept is gone, and in which others stay. No preserve prompt
names what stays. Some two minutes a concept on one core.
"""

from __future__ import annotations

import argparse

import world_recipes as words
from bench import Bench

from forgetcli import recipe as recipes

CONCEPTS = ("van_gogh", "strawberry", "dog")
ROWS = (
    ("words", 1.0, "outputs"),
    ("none", 1.0, "outputs"),
    ("none", 1.0, "weight"),
    ("words", 3.0, "outputs"),
    ("none", 3.0, "outputs"),
    ("none", 0.3, "outputs"),
    ("none", 10.0, "outputs"),
)


def main(labels: tuple[str, ...]) -> None:
    bench = Bench()
    print(
        "| concept | prior | damping | relative to | loss | ‖Δ‖/‖W‖ | forgotten | kept |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for label in labels:
        plain = recipes.parse(words.recipe([label], words.others([label], 8), unnamed=True))
        for prior, damping, price in ROWS:
            recipe = words.with_prior(plain, prior, [])
            tables = {"refine": {"damping": damping, "price": price}}
            edit, _ = bench.edit(recipe, "nullspace", tables)
            seen = bench.look(recipe, edit, 3)
            gone, stayed = (f"{sum(x)} of {len(x)}" for x in (seen.forgot, seen.kept))
            sizes = ", ".join(f"{site.delta_rel:.2f}" for site in edit.sites)
            print(
                f"| {label} | {prior} | {damping} | {price} | {min(edit.losses):.3f} | {sizes} | "
                f"{gone} | {stayed} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=int, default=1, choices=range(1, len(CONCEPTS) + 1))
    main(CONCEPTS[: parser.parse_args().concepts])
