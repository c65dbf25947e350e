"""What later edits undo of earlier ones, in numbers: edits one after another on the embedded model,
with K_p in the solve and without.

    python benchmarks/held.py WORK [--concepts 10] [--set refine.mode=copy]

c_i is what the text encoder makes of edit i's concept prompts right after it, c its final state
after all edits, c_0 the state before edit i:
‖c − c_i‖ / ‖c_i − c_0‖ is the share of its way that later edits moved it. All positions but the
first, which is the same token in every prompt and
whose keys are so large that they would be most of any norm. The recipes are those of sequence.py,
whose pictures they are; nothing is drawn here.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import world_recipes as words
from sequence import recipe

from forgetcli import models
from forgetcli import recipe as recipes
from forgetcli.artifact import ledger
from forgetcli.checkpoint import base
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply

COMPARED = ("with K_p", "without K_p")


def chained(work: Path, labels: list[str], chain: str, overrides: tuple[str, ...]) -> Path:
    """The last model; edits that are there are not made again."""
    model = "demo"
    for number, label in enumerate(labels):
        folder = work / chain.replace(" ", "-") / f"{number:02d}-{label}"
        if not (folder / "forget.provenance.json").is_file():
            apply(
                recipe([label], [], chain, words.preserve(labels), overrides),
                model=str(model),
                output=folder,
                force=True,
                strict=False,
            )
        if number:
            shutil.rmtree(model, ignore_errors=True)
        model = folder
    return Path(model)


def moved(folder: Path) -> list[float]:
    """Of every edit but the last: the share of its way that later ones moved it."""
    model, book = models.load(base.resolve("demo"), device="cpu"), ledger.load(folder)
    states, shares = [state(model, book, number) for number in range(len(book.edits) + 1)], []
    for i, entry in enumerate(book.edits[:-1]):
        ids = tokenise(
            model.tokenizer, [concept for concept, _ in recipes.parse(entry.recipe).edit_pairs()]
        ).ids
        before, after, end = (
            encoded(model, weights, ids) for weights in (states[i], states[i + 1], states[-1])
        )
        shares.append(float((end - after).norm() / (after - before).norm()))
    return shares


def state(model, book: ledger.Ledger, edits: int) -> dict:
    """The weights after so many edits: the base's, and the changes added."""
    weights = {}
    for component, parameter in {(p.component, p.parameter) for p in book.book.places}:
        changes = [
            book.tensor(f"edit.{e.number}.delta:{component}:{parameter}").double()
            for e in book.edits[:edits]
        ]
        weights[component, parameter] = getattr(model, component).get_parameter(
            parameter
        ).double() + sum(changes)
    return weights


@torch.no_grad()
def encoded(model, weights: dict, ids: torch.Tensor) -> torch.Tensor:
    with model.weights(weights):
        return model.encode(ids).hidden[:, 1:].double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as of forget apply; another WORK for other values",
    )
    chosen = parser.parse_args()
    labels = [
        words.THINGS[i * len(words.THINGS) // chosen.concepts] for i in range(chosen.concepts)
    ]
    found = {
        chain: moved(chained(chosen.work, labels, chain, tuple(chosen.set))) for chain in COMPARED
    }
    print("| | mean | largest | of each but the last |\n| --- | --- | --- | --- |")
    for chain, shares in found.items():
        print(
            f"| {chain} | {sum(shares) / len(shares):.3f} | {max(shares):.3f} | "
            f"{', '.join(f'{share:.2f}' for share in shares)} |"
        )


if __name__ == "__main__":
    main()
