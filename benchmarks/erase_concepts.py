"""Every concept of the embedded model forgotten by `forget erase`, which gets its name and nothing
else; goes on where it was cut short.

    python benchmarks/erase_concepts.py --output WORK [--concepts dog van_gogh …] [--sets none]

The protocol is that of all_concepts.py, which asks the same prompts at the same noise of edits by
recipes that know the concept's words. `world.toml` gives the questions; drafting reads none of it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import all_concepts
import world_recipes as words
from all_concepts import Seen, mean, told
from bench import Bench

from forgetcli import recipe as recipes
from forgetcli.errors import ForgetError
from forgetcli.pipeline.drafting.draft import draft
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.text import recipe_text


def spoken(label: str) -> str:
    """What a user types for a concept."""
    return re.sub(r"^(?:an?|the) ", "", words.name(label)).removeprefix("person ")


def one(label: str, seen: Seen, options: Options, every: int) -> dict:
    """As `all_concepts.one`, with the drafted recipe and the number of its prompts."""
    asked_by = recipes.parse(
        words.recipe([label], [x for x in words.LABELS if x != label][::every])
    )
    (concept,) = asked_by.concepts
    asked = {
        "direct": [(p, label) for p in concept.direct],
        "indirect": [(p, label) for p in concept.indirect],
        "kept": [(p, r.label) for r in asked_by.retain for p in (*r.direct, *r.indirect)],
    }
    flat = [question for questions in asked.values() for question in questions]
    before = seen.of_unedited(flat)
    try:
        drafted = draft(seen.bench.model, [spoken(label)], options)
        recipe = recipes.parse(recipe_text(drafted, model="demo"))
        edit, seconds = seen.bench.edit(recipe, "nullspace", recipe.parameters)
    except ForgetError as fault:
        return {"label": label, "error": fault.message}
    with seen.bench.model.weights(edit.weights):
        after = seen.of_current(flat)
    return {
        "label": label,
        "group": words.group(label),
        "seconds": seconds,
        "target": drafted.concepts[0].target,
        "aliases": drafted.concepts[0].aliases,
        "kind": drafted.concepts[0].kind.name,
        "baseline": told(asked, before),
        "edited": told(asked, after),
    }


def main(output: Path, labels: list[str], options: Options, every: int) -> None:
    file = output / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    seen = Seen(Bench())
    for label in labels:
        if label not in rows:
            rows[label] = one(label, seen, options, every)
            file.write_text(json.dumps(rows))
        r = rows[label]
        print(
            f"{label}: {r['error']}"
            if "error" in r
            else f"{label} ({r['kind']}, {', '.join(r['aliases'])}) -> {r['target']}: forget "
            f"{mean(r['edited']['direct']):.2f} direct, "
            f"{mean(r['edited']['indirect']):.2f} indirect "
            f"(unedited {mean(r['baseline']['direct']):.2f}, "
            f"{mean(r['baseline']['indirect']):.2f}), "
            f"retain {mean(r['edited']['kept']):.2f} ({mean(r['baseline']['kept']):.2f}), "
            f"{r['seconds']:.1f} s",
            flush=True,
        )
    all_concepts.print_table(list(rows.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concepts", nargs="+", choices=words.LABELS, default=words.LABELS)
    parser.add_argument("--sets", nargs="*", default=list(Options().sets), help="none: --sets")
    parser.add_argument("--every", type=int, default=1, help="ask for every n-th kept concept only")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.concepts, Options(sets=tuple(args.sets)), args.every)
