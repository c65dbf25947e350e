"""What each default of a method buys that differs from its authors' preset: the preset, the preset
with one default in place, and all defaults.

    python benchmarks/authors.py --output WORK [--methods uce rece]

dp has no preset, and that of stereo takes hours.

Two tuning concepts, one edit each, 20 preserve prompts that name nothing of what retain is measured
on, no prior; templates in which the concept is not always the last word. 12 pictures of the
concepts and 24 of others a row, 10 sampler steps. `empty`: how far the value layers' outputs for
the empty prompt move, relative to themselves, without the start token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import world_recipes as words
from bench import Bench, mean, nested
from torch import Tensor

from forgetcli import recipe as recipes
from forgetcli.editing.context_columns import prompt_columns
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.edit import Edit
from forgetcli.errors import EditError
from forgetcli.evaluation.intervals import harmonic

CONCEPTS = ("van_gogh", "strawberry")
TEMPLATES = '[prompts]\ntemplates = ["{}", "a picture of {}", "{} picture"]\n'
AUTHORS = {"edit.preset": "authors"}
TRAINED = {"train.preset": "authors"}
PLAIN = {"edit.prior": 0.0}
ROWS: dict[str, dict[str, dict]] = {
    "uce": {
        "authors": AUTHORS,
        "authors, the empty prompt held": {**AUTHORS, "edit.empty": True},
        "authors, the subject's last token": {**AUTHORS, "edit.positions": "last"},
        "default": PLAIN,
    },
    "rece": {
        "authors": AUTHORS,
        "authors, rounds at the edit's own tokens": {
            **AUTHORS,
            "adversarial.positions": "from-last",
        },
        "authors, λ and η_p 0.1 in all stages": {**AUTHORS, "edit.lam": 0.1, "edit.share": False},
        "authors, preserve prompts from the last token": {
            **AUTHORS,
            "edit.held_positions": "from-last",
        },
        "default": PLAIN,
    },
    "speed": {
        "authors": AUTHORS,
        "authors, cut relative to the mean": {**AUTHORS, "edit.scale": "mean"},
        "authors, the subject's last token": {**AUTHORS, "edit.positions": "last"},
        "authors, the empty prompt in the prior": {**AUTHORS, "prior.empty": True},
        "default": {"prior.weight": 0.0},
    },
    "mace-cf": {
        "authors": AUTHORS,
        "authors, the concept's own tokens": {**AUTHORS, "edit.own_tokens": True},
        "authors, own tokens, preserve prompts": {
            **AUTHORS,
            "edit.own_tokens": True,
            "edit.preserve": 0.8,
        },
        "default": PLAIN,
    },
    "oce": {
        "authors": AUTHORS,
        "authors, the subject's last token": {**AUTHORS, "edit.positions": "last"},
        "authors, weights and directions of the default": {
            **AUTHORS,
            "edit.scale": "relative",
            "edit.lam": 0.1,
            "edit.energy": 0.9,
        },
        "default": PLAIN,
    },
    "emcid": {
        "authors": AUTHORS,
        "authors, λ and ridge of the default": {**AUTHORS, "edit.lam": 100.0, "edit.ridge": 0.01},
        "default": PLAIN,
    },
    "hirm": {
        "authors": TRAINED,
        "authors-random": {"train.preset": "authors-random"},
        "authors, 100 steps": {**TRAINED, "train.steps": 100},
        "authors, rate 2e-4": {**TRAINED, "train.lr": 2e-4},
        "default": {},
    },
    "esd": {
        "authors": TRAINED,
        "default": {},
        "default, 200 steps": {"train.steps": 200},
    },
}


def tuning_recipe(label: str) -> recipes.Recipe:
    kept = words.others([label], 12)
    text = words.recipe([label], kept, few=20, unnamed=True)
    made = recipes.parse(text.replace("[preserve]", f"{TEMPLATES}\n[preserve]"))
    return words.with_prior(made, "none", [])


def moved(bench: Bench, edit: Edit) -> float:
    """How far the value layers' outputs for the empty prompt move."""
    before = values_of_empty(bench)
    with bench.model.weights(edit.weights):
        after = values_of_empty(bench)
    return float((after - before).norm() / before.norm())


@torch.no_grad()
def values_of_empty(bench: Bench) -> Tensor:
    """The outputs of all value layers for the empty prompt, without its start token."""
    columns = prompt_columns(token_states(bench.model), [""], "all")[:, 1:]
    sites = bench.model.cross_attention.items()
    return torch.cat(
        [
            (site.module.weight.double() @ columns).flatten()
            for name, site in sites
            if name.endswith("to_v")
        ]
    )


def measured(bench: Bench, method: str, values: dict) -> dict:
    forgot, kept, empty = [], [], []
    for label in CONCEPTS:
        recipe = tuning_recipe(label)
        try:
            edit, _ = bench.edit(recipe, method, nested(values))
        except EditError as fault:
            return {"error": fault.code}
        seen = bench.look(recipe, edit, asked=3)
        forgot += seen.forgot
        kept += seen.kept
        empty.append(moved(bench, edit))
    return {"forgot": forgot, "kept": kept, "empty": mean(empty)}


def main(output: Path, names: list[str]) -> None:
    bench = Bench()
    print(
        "| method | parameters | forget | retain | H | empty |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for method in names:
        for number, (row, values) in enumerate(ROWS[method].items()):
            file = output / f"{method}-{number}.json"
            if not file.exists():
                file.write_text(json.dumps(measured(bench, method, values)))
            found = json.loads(file.read_text())
            if "error" in found:
                print(f"| {method} | {row} | {found['error']} | | | |", flush=True)
                continue
            forget, retain = mean(found["forgot"]), mean(found["kept"])
            print(
                f"| {method} | {row} | {forget:.2f} | {retain:.2f} | "
                f"{harmonic(forget, retain):.3f} | {found['empty']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.methods)
