"""What later edits undo of earlier ones, in numbers: edits one after another on the embedded model, with K_p in the solve and without.

    python benchmarks/held.py WORK [--concepts 10]

For edit i, K_i its concept prompts' keys at a site (in the model after it), Δ_i its change there: ‖Σ_{k>i} Δ_k K_i‖ / ‖Δ_i K_i‖ is the share of what
it put in place that all later edits together moved. The recipes are those of sequence.py, whose pictures they are; nothing is drawn here.
"""
from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import world_recipes as words
from sequence import recipe

from forgetcli import ledger
from forgetcli.pipeline import apply

COMPARED = ("with K_p", "without K_p")


def chained(work: Path, labels: list[str], chain: str) -> Path:
    """The last model; edits that are there are not made again."""
    model = "demo"
    for number, label in enumerate(labels):
        folder = work / chain.replace(" ", "-") / f"{number:02d}-{label}"
        if not (folder / "forget.provenance.json").is_file():
            apply(recipe([label], [], chain, words.preserve(labels)), model=str(model), output=folder, force=True, strict=False)
        if number:
            shutil.rmtree(model, ignore_errors=True)
        model = folder
    return Path(model)


def moved(folder: Path) -> dict[str, list[float]]:
    """By site, of every edit but the last: the share that later ones moved."""
    book, shares = ledger.load(folder), {}
    for place in {(p.component, p.parameter): p for p in book.book.places}.values():
        deltas = [book.tensor(f"edit.{e.number}.delta:{place.component}:{place.parameter}").double() for e in book.edits]
        rows = []
        for i, entry in enumerate(book.edits[:-1]):
            alone = book.without(e.number for e in book.edits if e is not entry)
            M = alone.held(place.component, place.parameter).matrix
            later = sum(deltas[i + 1:])
            rows.append(float((((later @ M) * later).sum() / ((deltas[i] @ M) * deltas[i]).sum()).sqrt()))
        shares[place.parameter.removesuffix(".weight").removeprefix("text_model.")] = rows
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--concepts", type=int, default=10)
    chosen = parser.parse_args()
    labels = [words.THINGS[i * len(words.THINGS) // chosen.concepts] for i in range(chosen.concepts)]
    found = {chain: moved(chained(chosen.work, labels, chain)) for chain in COMPARED}
    print("| site | " + " | ".join(f"{chain}: mean | largest" for chain in COMPARED) + " |")
    print("| --- |" + " --- |" * (2 * len(COMPARED)))
    for site in found[COMPARED[0]]:
        print(f"| {site} | " + " | ".join(f"{sum(rows) / len(rows):.3f} | {max(rows):.3f}" for rows in (found[chain][site] for chain in COMPARED)) + " |")


if __name__ == "__main__":
    main()
