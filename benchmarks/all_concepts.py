"""Every concept of the embedded model forgotten, one edit at a time, beside the unedited model;
goes on where it was cut short.

    python benchmarks/all_concepts.py --output WORK [--concepts dog van_gogh …]

For each concept 5 direct and 5 indirect prompts, and one prompt for each of the 50 others, direct
and indirect in turn; one image a prompt, whose noise is the prompt's own, the same for both models.
Prompts that contradict the edit (`forgetcli.recipe.clashes`) are not asked, and their number is
printed. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import tomli
import world_recipes as words
from bench import Bench, mean

from forgetcli import recipe as recipes
from forgetcli.errors import EditError
from forgetcli.evaluation.intervals import harmonic, harmonic_interval, wilson
from forgetcli.recipe import clashes

KINDS = ("direct", "indirect", "kept")
METHOD = "nullspace"


class Seen:
    """What the judge sees in a model's pictures; the unedited model's are drawn once."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.unedited = bench, {}

    def of_unedited(self, asked: list[tuple[str, str]]) -> list[bool]:
        missing = [pair for pair in dict.fromkeys(asked) if pair not in self.unedited]
        self.unedited |= dict(zip(missing, self.of_current(missing)))
        return [self.unedited[pair] for pair in asked]

    def of_current(self, asked: list[tuple[str, str]]) -> list[bool]:
        pictures = self.bench.drawn(
            [p for p, _ in asked], [zlib.crc32(p.encode()) for p, _ in asked]
        )
        return (
            [s.seen for s in self.bench.judge.see(pictures, [label for _, label in asked])]
            if asked
            else []
        )


def one(label: str, seen: Seen, tables: dict) -> dict:
    """Per model, kind and prompt: whether the concept is absent, or a retained one is seen."""
    recipe = recipes.parse(words.recipe([label], [x for x in words.LABELS if x != label]))
    (concept,) = recipe.concepts
    left_out = {clash.prompt for clash in clashes.of_document(recipe)}
    asked = {
        "direct": [(p, label) for p in concept.direct],
        "indirect": [(p, label) for p in concept.indirect if p not in left_out],
        "kept": [
            (p, r.label)
            for r in recipe.retain
            for p in (*r.direct, *r.indirect)
            if p not in left_out
        ],
    }
    flat = [question for questions in asked.values() for question in questions]
    before = seen.of_unedited(flat)
    try:
        edit, seconds = seen.bench.edit(recipe, METHOD, tables)
    except EditError as fault:
        return {"label": label, "error": fault.message}
    with seen.bench.model.weights(edit.weights):
        after = seen.of_current(flat)
    return {
        "label": label,
        "group": words.group(label),
        "seconds": seconds,
        "left_out": len(left_out),
        "baseline": told(asked, before),
        "edited": told(asked, after),
    }


def told(asked: dict, seen: list[bool]) -> dict:
    out, start = {}, 0
    for kind, prompts in asked.items():
        part = seen[start : start + len(prompts)]
        out[kind] = part if kind == "kept" else [not s for s in part]
        start += len(prompts)
    return out


def scores(rows: list[dict], side: str) -> dict:
    found = {kind: [value for r in rows for value in r[side][kind]] for kind in KINDS}
    forgot = [mean(r[side]["direct"] + r[side]["indirect"]) for r in rows]
    # a bootstrap over concepts: prompts of one resemble one another
    return found | {
        "h": harmonic(mean(forgot), mean(found["kept"])),
        "ci": harmonic_interval(forgot, [mean(r[side]["kept"]) for r in rows]),
    }


def share(values: list[bool]) -> str:
    low, high = wilson(sum(values), len(values))
    return f"{100 * mean(values):.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def main(output: Path, labels: list[str]) -> None:
    file = output / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    seen, tables = (
        Seen(Bench()),
        tomli.loads(words.PARAMETERS.read_text()).get("methods", {}).get(METHOD, {}),
    )
    for label in labels:
        if label not in rows:
            rows[label] = one(label, seen, tables)
            file.write_text(json.dumps(rows))
        print(line(rows[label]), flush=True)
    print_table(list(rows.values()))
    print(f"\nprompts that contradict an edit: {sum(r.get('left_out', 0) for r in rows.values())}")


def line(row: dict) -> str:
    """The scores of one concept, the unedited model's in brackets."""
    if "error" in row:
        return f"{row['label']}: {row['error']}"

    def both(kind: str) -> str:
        edited, baseline = row["edited"][kind], row["baseline"][kind]
        return f"{mean(edited):.2f} ({mean(baseline):.2f})" if edited else "not asked"

    figures = ", ".join(f"{kind} {both(kind)}" for kind in KINDS)
    return f"{row['label']}: {figures}, {row['seconds']:.1f} s"


def print_table(rows: list[dict]) -> None:
    """Scores of styles, things and all, unedited and edited, and which edits were refused."""
    good, failed = [r for r in rows if "error" not in r], [r for r in rows if "error" in r]
    print(
        "\n| concepts | model | forget, direct | forget, indirect | retain | H |\n| --- | --- | "
        "--- | --- | --- | --- |"
    )
    for title, chosen in (("styles", "style"), ("things", "thing"), ("all", None)):
        part = [r for r in good if chosen in (None, r["group"])]
        for side in ("baseline", "edited") if part else ():
            s = scores(part, side)
            print(
                f"| {len(part)} {title} | {'unedited' if side == 'baseline' else 'edited'} | "
                f"{share(s['direct'])} | {share(s['indirect'])} "
                f"| {share(s['kept'])} | {s['h']:.3f} ({s['ci'][0]:.3f}–{s['ci'][1]:.3f}) |"
            )
    print(
        f"{len(failed)} edits were refused: {', '.join(r['label'] for r in failed)}"
        if failed
        else "no edit was refused"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concepts", nargs="+", choices=words.LABELS, default=words.LABELS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.concepts)
