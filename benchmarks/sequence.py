"""Ten concepts erased one by one: with the earlier edits' keys K_p in the solve, without them, by
other methods, and all ten at once.

    python benchmarks/sequence.py --output WORK [--quick] [--few 20] [--chains "with K_p" uce]
    [--priors none others words]

No recipe's preserve prompts name any of the ten, so nothing but K_p holds what an earlier edit put
in place; only `nullspace` has it. Each concept is
asked for right after its own edit and again at the end; retain is over 30 other concepts.
Parameters: the defaults, and of the other methods
parameters.toml (parameters_others.toml, parameters_none.toml). Every chain is made once with each
of the priors; see regimes.py. Goes on where it was cut short.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import world_recipes as words

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.artifact import manifest as manifests
from forgetcli.checkpoint import base
from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges
from forgetcli.evaluation.questions import Question, of_recipe
from forgetcli.evaluation.run import Run, Subject, answered
from forgetcli.evaluation.scores import summary
from forgetcli.generation.images import ImageRequest
from forgetcli.pipeline.apply import apply
from forgetcli.process.distributed import current
from forgetcli.progress import Silent, Stopwatch

# nullspace is the recipe's own method; by default it holds them
WITHOUT = "\n[edit]\nhold_earlier = false\n"
PRIORS = {"none": "no prior", "others": "other words", "words": "all words"}
PAIRS_ALONE = ("esd", "hirm", "stereo")
CHAINS = {
    "with K_p": ("nullspace", ""),
    "without K_p": ("nullspace", WITHOUT),
    **{name: (name, "") for name in methods.names() if name not in ("nullspace", "none")},
}
KEYS = ("forget_direct", "forget_indirect", "retain", "h")


def recipe(
    forgotten: list[str],
    kept: list[str],
    chain: str,
    preserve: list[str],
    overrides: tuple[str, ...] = (),
    prior: str = "words",
    measured: tuple[str, ...] = (),
) -> recipes.Recipe:
    """For some of the concepts; `preserve`: prompts that name none of all of them.

    Args:
        prior, measured: see `world_recipes.with_prior`.
    """
    method, tables = CHAINS[chain]
    own = words.parameters_for(prior).read_text()
    text = words.recipe(forgotten, kept, tables=tables + own)
    listed = json.dumps(preserve, ensure_ascii=False)
    lines = [
        f"prompts = {listed}" if line.startswith("prompts = [") else line
        for line in text.split("\n")
    ]
    made = recipes.parse(
        "\n".join(lines), method=method, overrides=overrides
    )  # of other methods it takes [methods.NAME], of its own [edit]
    if (chain == "without K_p") != (made.parameters.get("edit", {}).get("hold_earlier") is False):
        raise AssertionError(f"the chain '{chain}' is not what its name says")
    return words.with_prior(made, prior or "words", list(measured))


class Study:
    """The recipes, and what is asked of every model.

    Args:
        few: this many preserve prompts instead of all.
        unnamed: no preserve prompt names one of the concepts that retain is measured on.
    """

    def __init__(
        self, output: Path, labels: list[str], kept: int, few: int | None, unnamed: bool
    ) -> None:
        self.output, self.labels = output, labels
        self.measured = tuple(words.others(labels, kept))
        self.preserve = words.preserve(
            [*labels, *(words.others(labels, kept) if unnamed else [])], few
        )
        self.whole = self.recipe(labels, "with K_p", "words", kept)
        self.judge = judges.load("demo", None, None)
        self.questions = of_recipe(self.whole, self.judge)
        self.baseline = self.asked(Subject("unedited", base.resolve("demo")), self.questions)

    def recipe(self, forgotten: list[str], chain: str, prior: str, kept: int = 0) -> recipes.Recipe:
        return recipe(
            forgotten,
            words.others(self.labels, kept) if kept else [],
            chain,
            self.preserve,
            prior=prior,
            measured=self.measured,
        )

    def asked(self, subject: Subject, questions: list[Question]) -> Run:
        shots = [ImageRequest(q.prompt, 0) for q in questions]
        return answered(
            subject,
            questions,
            shots,
            self.judge,
            self.output / "pictures",
            device=None,
            batch=8,
            observer=Silent(),
            watch=Stopwatch(),
            processes=current(),
        )

    def scores(self, folder: Path, name: str, of: str | None = None) -> dict:
        """Beside the unedited model; `of`: of one concept alone, without retain."""
        questions = [q for q in self.questions if of in (None, q.label)]
        run = self.asked(
            Subject(name, base.resolve(folder), frozenset([of] if of else self.labels)), questions
        )
        before = tuple(a for a in self.baseline.answers if a.question in questions)
        return summary(Run(self.baseline.subject, before), run).as_dict()

    def chain(self, name: str, prior: str) -> dict:
        """One edit on top of the other: each concept's forget right after its edit and at the end,
        and the last model's scores.
        """
        place = self.output / f"{name}-{prior}".replace(" ", "-")
        file = place / "steps.json"
        place.mkdir(parents=True, exist_ok=True)
        steps, model = json.loads(file.read_text()) if file.exists() else [], "demo"
        for number, label in enumerate(self.labels):
            folder = place / f"{number:02d}-{label}"
            if number >= len(steps):
                if not intact(folder):
                    # Not strict: that an edit is weak on top of others is what is measured here.
                    apply(
                        self.recipe([label], name, prior),
                        model=str(model),
                        output=folder,
                        force=True,
                        strict=False,
                    )
                shown = self.scores(folder, f"{place.name}-{number:02d}", label)["edited"]
                steps.append(
                    {
                        "label": label,
                        "after": shown,
                        "sites": json.loads((folder / manifests.REPORT).read_text())["sites"],
                    }
                )
                file.write_text(json.dumps(steps, indent=1))
                print(
                    f"{name}: {label}: forget {shown['forget']:.2f} right after its edit",
                    flush=True,
                )
            if number and number < len(steps):
                shutil.rmtree(model, ignore_errors=True)  # 19 MB each, and the ledger
            model = folder
        return {"steps": steps, **self.scores(model, place.name)}


def intact(folder: Path) -> bool:
    try:
        manifests.load(folder)
    except ForgetError:
        return False
    return True


def cell(scores: dict, key: str) -> str:
    if scores.get(key) is None:
        return "–"
    low, high = scores[f"{key}_ci"]
    return f"{scores[key]:.3f} ({low:.2f}–{high:.2f})"


def main(
    output: Path,
    labels: list[str],
    kept: int,
    few: int | None,
    unnamed: bool,
    chains: list[str],
    priors: list[str],
) -> None:
    study, results = Study(output, labels, kept, few, unnamed), {}
    for name in chains:
        for prior in [""] if name in PAIRS_ALONE else priors:
            results[f"{name}, {PRIORS[prior]}" if prior else name] = study.chain(name, prior)
    chains = list(results)
    if not intact(output / "at-once"):
        apply(study.whole, output=output / "at-once", force=True, strict=False)
    results["all at once"] = study.scores(output / "at-once", "at-once")
    (output / "results.json").write_text(json.dumps(results, indent=1))
    print(
        "\n| model | forget, direct | forget, indirect | retain | H |\n| --- | --- | --- | --- | "
        "--- |"
    )
    for name, scores in {
        "unedited": results["all at once"]["baseline"],
        **{n: r["edited"] for n, r in results.items()},
    }.items():
        print(f"| {name} | " + " | ".join(cell(scores, key) for key in KEYS) + " |")
    print(
        "\n| concept, in order | "
        + " | ".join(f"{n}: after its edit | {n}: at the end" for n in chains)
        + " | all at once |"
    )
    print("| --- |" + " --- |" * (2 * len(chains) + 1))
    for number, label in enumerate(labels):
        at_end = {
            n: next(
                c["edited"]["forget"] for k, c in r["concepts"].items() if k == words.name(label)
            )
            for n, r in results.items()
        }
        shown = [
            x for n in chains for x in (results[n]["steps"][number]["after"]["forget"], at_end[n])
        ]
        print(
            f"| {label} | " + " | ".join(f"{x:.2f}" for x in (*shown, at_end["all at once"])) + " |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--few", type=int, help="this many preserve prompts instead of all")
    parser.add_argument(
        "--unnamed",
        action="store_true",
        help="no preserve prompt names one of the concepts that retain is measured on",
    )
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=["with K_p", "without K_p"])
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=list(PRIORS))
    parser.add_argument(
        "--quick", action="store_true", help="two concepts and four others: only whether it runs"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    count = 2 if args.quick else args.concepts
    chosen = [words.THINGS[i * len(words.THINGS) // count] for i in range(count)]
    main(
        args.output,
        chosen,
        4 if args.quick else 30,
        args.few,
        args.unnamed,
        args.chains,
        args.priors,
    )
