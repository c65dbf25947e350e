"""Every concept of the embedded model forgotten, one edit at a time, beside the unedited model; goes on where it was cut short.

    python benchmarks/all_concepts.py --output WORK [--concepts dog van_gogh …]

For each concept 5 direct and 5 indirect prompts, and one prompt for each of the 50 others, direct and indirect in turn, one
picture a prompt. About 20 seconds a concept on two cores.
"""
from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import world_recipes as words

from forgetcli import recipe as recipes
from forgetcli.errors import EditError
from forgetcli.evaluation import evaluate
from forgetcli.pipeline import apply
from forgetcli.statistics import harmonic, harmonic_interval, wilson


def one(label: str, output: Path) -> dict:
    others = [x for x in words.LABELS if x != label]                  # of each one prompt, so that retain is over all of them
    recipe = recipes.parse(words.recipe([label], others, tables="\n" + words.PARAMETERS.read_text()))
    try:
        applied = apply(recipe, output=output / label / "edited", force=True)
    except EditError as fault:
        return {"label": label, "error": fault.message}
    scores = evaluate(output / label / "edited", recipe=recipe, output=output / label / "eval", force=True).as_dict()
    shutil.rmtree(output / label / "edited")                          # 19 MB each; the recipe makes it again
    return {"label": label, "group": words.group(label), "seconds": applied.seconds["total"], "baseline": scores["baseline"], "edited": scores["edited"],
            "concepts": scores["concepts"]}


def pooled(rows: list[dict], side: str) -> str:
    cells = []
    for key in ("forget_direct", "forget_indirect", "forget", "retain"):
        n = sum(r[side][f"{key}_n"] for r in rows)
        right = sum(round(r[side][key] * r[side][f"{key}_n"]) for r in rows if r[side][key] is not None)
        low, high = wilson(right, n)
        cells.append(f"{100 * right / n:.1f} % ({100 * low:.0f}–{100 * high:.0f})")
    forget, retain = [r[side]["forget"] for r in rows], [r[side]["retain"] for r in rows]
    low, high = harmonic_interval(forget, retain)                     # a bootstrap over concepts: prompts of one resemble one another
    h = harmonic(sum(forget) / len(forget), sum(retain) / len(retain))
    return " | ".join([cells[0], cells[1], cells[3], f"{h:.3f} ({low:.3f}–{high:.3f})"])


def main(output: Path, labels: list[str]) -> None:
    file, rows = output / "results.json", {}
    if file.exists():
        rows = json.loads(file.read_text())
    for label in labels:
        if label not in rows:
            rows[label] = one(label, output)
            file.write_text(json.dumps(rows, indent=1))
        r = rows[label]
        print(f"{label}: {r['error']}" if "error" in r else
              f"{label}: forget {r['edited']['forget_direct']:.2f} direct, {r['edited']['forget_indirect']:.2f} indirect ({r['baseline']['forget']:.2f} unedited), "
              f"retain {r['edited']['retain']:.2f} ({r['baseline']['retain']:.2f}), H {r['edited']['h']:.2f}, {r['seconds']:.0f} s", flush=True)
    failed = [r for r in rows.values() if "error" in r]
    print("\n| concepts | model | forget, direct | forget, indirect | retain | H |\n| --- | --- | --- | --- | --- | --- |")
    for title, chosen in (("styles", "style"), ("things", "thing"), ("all", None)):
        part = [r for r in rows.values() if "error" not in r and chosen in (None, r["group"])]
        for side in ("baseline", "edited"):
            if part:
                print(f"| {len(part)} {title} | {'unedited' if side == 'baseline' else 'edited'} | {pooled(part, side)} |")
    print(f"{len(failed)} edits were refused: {', '.join(r['label'] for r in failed)}" if failed else "no edit was refused")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concepts", nargs="+", choices=words.LABELS, default=words.LABELS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.concepts)
