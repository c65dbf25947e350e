"""All methods where they differ: the regimes of the comparison, each over several concepts, one
table a regime.

    python benchmarks/regimes.py --output WORK [--quick] [--regimes single bare] [--methods
    nullspace uce] [--priors none others words] [--concepts 20]

single   one concept at a time, held-out concepts of all four groups
bare     the same, but the edit sees only "concept" → "target"
few      the same, with 20 preserve prompts
near     the same, retain measured on the five nearest concepts in the text encoder
five, ten, twenty, all    so many things in one recipe, retain measured on the rest
ten-few      ten things, 20 preserve prompts
…-unnamed    the same, and no preserve prompt names or hints at what retain is measured on: what a
             user did not think of, which of a
             model of real size is nearly everything

Every method has a row for each prior ([preserve] prior): `none`; `others`, the tokenizer's words
that name or hint at none of the concepts that retain is measured on; `words`, all of them. Methods
that read no preserve prompts (esd, hirm, stereo) have one row.

Every row: forget on prompts that no edit saw, retain, H, beside the unedited model; the ceiling is
H of perfect forgetting with the
unedited model's own retain. Intervals: Wilson for shares, bootstrap over prompts for H; the lead is
H of the first method at the same prior less the row's,
by a bootstrap over prompts that are paired. Goes on where it was cut short. Parameters of
all methods: benchmarks/parameters.toml (words), parameters_others.toml and parameters_none.toml,
each found with that prior by
tune_methods.py on other concepts. --quick: two
concepts, three methods, a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import tomli
import world_recipes as words
from bench import PAIRS_ALONE, Bench, Seen, mean

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.errors import EditError
from forgetcli.evaluation.intervals import harmonic, harmonic_interval, harmonic_lead, wilson

FEW = 20  # preserve prompts
UNNAMED = "-unnamed"  # no preserve prompt names or hints at what retain is measured on
SINGLE: dict[str, dict] = {"single": {}, "bare": {"bare": True}, "few": {"few": FEW}, "near": {}}
MANY: dict[str, tuple[int, int | None]] = {
    "five": (5, None),
    "ten": (10, None),
    "twenty": (20, None),
    "all": (len(words.THINGS), None),
    "ten-few": (10, FEW),
}
REGIMES = (*SINGLE, *MANY, *(name + UNNAMED for name in (*SINGLE, "ten", "twenty", "ten-few")))
CONTROL = "none"


def of(regime: str, concepts: list[str]) -> dict[str, recipes.Recipe]:
    """The recipes of a regime, by name."""
    kind, unnamed, made = regime.removesuffix(UNNAMED), regime.endswith(UNNAMED), {}
    if kind in MANY:
        count, few = MANY[kind]
        forgotten = [words.THINGS[i * len(words.THINGS) // count] for i in range(count)]
        return {
            regime: recipes.parse(
                words.recipe(forgotten, words.others(forgotten, 30), few=few, unnamed=unnamed)
            )
        }
    for label in concepts:
        kept = words.nearest(label) if kind == "near" else words.others([label], 12)
        made[label] = recipes.parse(
            words.recipe(
                [label], kept, asked=2 if kind == "near" else None, unnamed=unnamed, **SINGLE[kind]
            )
        )
    return made


def measured(
    bench: Bench, recipe: recipes.Recipe, method: str, prior: str, tables: dict, file: Path
) -> dict:
    if file.exists():
        return json.loads(file.read_text())
    if prior:
        labels = [retained.label or retained.concept for retained in recipe.retain]
        recipe = words.with_prior(recipe, prior, labels)
    try:
        edit, seconds = bench.edit(recipe, method, tables)
        seen = bench.look(recipe, edit, asked=None if len(recipe.concepts) == 1 else 2)
        found = {"seconds": seconds, **vars(seen)}
    except EditError as fault:
        found = {"error": fault.message}
    file.write_text(json.dumps(found))
    return found


def row(method: str, found: list[dict], first: list[dict], ceiling: float) -> str:
    """One line of the table; `first` is what the first method came to on the same recipes."""
    good = [f for f in found if "error" not in f]
    if not good:
        return f"| {method} | {found[0]['error']} | | | | | |"
    seen, leader = (
        together(good),
        together(
            [lead for f, lead in zip(found, first) if "error" not in f and "error" not in lead]
        ),
    )
    h, (low, high) = (
        harmonic(mean(seen.forgot), mean(seen.kept)),
        harmonic_interval(seen.forgot, seen.kept),
    )
    failed = f"({len(found) - len(good)} refused) " if len(good) < len(found) else ""
    return (
        f"| {failed}{method} | {share(seen.direct)} | {share(seen.indirect)} | {share(seen.kept)} "
        f"| {h:.3f} ({low:.2f}–{high:.2f}) "
        f"| {h / ceiling:.2f} | {lead(leader, seen)} | {mean([f['seconds'] for f in good]):.1f} |"
    )


def together(found: list[dict]) -> Seen:
    return Seen(
        *([value for f in found for value in f[key]] for key in ("direct", "indirect", "kept"))
    )


def lead(leader: Seen, seen: Seen) -> str:
    if len(leader.kept) != len(seen.kept):
        return "–"
    low, high = harmonic_lead(leader.forgot, leader.kept, seen.forgot, seen.kept)
    ahead = harmonic(mean(leader.forgot), mean(leader.kept)) - harmonic(
        mean(seen.forgot), mean(seen.kept)
    )
    return f"{ahead:+.3f} ({low:+.3f} to {high:+.3f})"


def share(values: list[bool]) -> str:
    low, high = wilson(sum(values), len(values))
    return f"{mean(values):.3f} ({low:.2f}–{high:.2f})"


def main(
    output: Path, names: list[str], chosen: list[str], priors: list[str], concepts: list[str]
) -> None:
    bench = Bench()
    parameters = {
        prior: tomli.loads(words.parameters_for(prior).read_text()).get("methods", {})
        for prior in ("", *priors)
    }
    for regime in names:
        made = of(regime, concepts)
        (output / regime).mkdir(parents=True, exist_ok=True)
        found = {
            (method, prior): [
                measured(
                    bench,
                    recipe,
                    method,
                    prior,
                    parameters[prior].get(method, {}),
                    output / regime / f"{'-'.join(filter(None, (label, method, prior)))}.json",
                )
                for label, recipe in made.items()
            ]
            for method, prior in rows(chosen, priors)
        }
        control = found[CONTROL, ""]
        ceiling = harmonic(1.0, mean([value for f in control for value in f["kept"]]))
        pictures = [sum(len(f[key]) for f in control) for key in ("direct", "indirect", "kept")]
        print(
            f"\n**{regime}**: {len(made)} edits; pictures: {pictures[0]} direct, {pictures[1]} "
            f"indirect, {pictures[2]} of what stays; ceiling {ceiling:.3f}\n"
        )
        print(
            f"| method | prior | forget, direct | forget, indirect | retain | H | of the ceiling | "
            f"{chosen[0]}'s lead | seconds an edit |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        for (method, prior), results in found.items():
            first = found.get((chosen[0], prior or priors[-1]), control)
            name = "unedited" if method == CONTROL else method
            print(row(f"{name} | {PRIORS.get(prior, '')}", results, first, ceiling), flush=True)


# By the names of `world_recipes.with_prior`.
PRIORS = {"none": "none", "others": "words that name nothing measured", "words": "all words"}


def rows(chosen: list[str], priors: list[str]) -> list[tuple[str, str]]:
    """The rows of a table: method and prior, which is empty for methods that have none."""
    return [
        (CONTROL, ""),
        *(
            (method, prior)
            for method in chosen
            for prior in ([""] if method in PAIRS_ALONE else priors)
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=methods.names(),
        default=["nullspace", *(n for n in methods.names() if n not in (CONTROL, "nullspace"))],
        help="the first one's lead over the others is printed",
    )
    parser.add_argument("--priors", nargs="+", choices=words.PRIORS, default=list(words.PRIORS))
    parser.add_argument(
        "--concepts",
        type=int,
        default=20,
        help="how many of the held-out concepts, from all four groups",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two concepts, one edit at a time, nullspace, uce and rece",
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.quick:
        main(
            args.output,
            ["single", "few"],
            ["nullspace", "uce", "rece"],
            args.priors,
            ["cat", "monet"],
        )
    else:
        main(args.output, args.regimes, args.methods, args.priors, words.heldout(args.concepts))
