"""The same tuning for every method: so many trials each, on tuning concepts that no published
figure uses.

    python benchmarks/tune_methods.py --output WORK [--prior words] [--trials 6] [--methods uce esd]

A trial edits four recipes whose preserve prompts name nothing of what retain is measured on: two of
one concept, one of them with 20 preserve prompts (14 pictures each), and two of all tuning things
at once, one of them with 20 preserve prompts (42 pictures each). Recipes whose preserve prompts
name everything are left out: every closed form has H = 1 on them. Prompts and seeds are equal for
all methods; 10 sampler steps. Methods that run the denoiser in training (esd, stereo, emcid) take
many minutes for all tuning things and are tuned on the two recipes of one concept. Trial 0 has the
method's defaults, the others are random. Methods in parameters_earlier.toml have one more trial,
with the values there. Highest H over all pictures wins; of equals the earlier. So a trial ends as
soon as it could not win even if all its remaining pictures were right, and nothing is tried any
more once H is 1. What is found is printed as TOML for benchmarks/parameters.toml. Goes on where it
was cut short.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna
import tomli
import tomlkit
import world_recipes as words
from bench import Bench, mean, nested

from forgetcli import methods
from forgetcli import recipe as recipes
from forgetcli.errors import EditError
from forgetcli.evaluation.intervals import harmonic
from forgetcli.experiments.tuning.space import SearchSpace
from forgetcli.experiments.tuning.study import finished, open_study

CASES = (("unnamed", "van_gogh"), ("few-unnamed", "strawberry"))
MANY = [label for label in words.TUNING if label in words.THINGS]
EARLIER = Path(__file__).with_name("parameters_earlier.toml")
ASKED, KEPT = 3, 8
ONE_AT_A_TIME = ("esd", "stereo", "emcid")


def tuning_recipes(cases=CASES, kept=KEPT) -> list[recipes.Recipe]:
    return [
        recipes.parse(
            f'name = "{regime}-{label}"\n'
            + words.recipe(
                [label],
                words.others([label], kept),
                bare=regime == "bare",
                few=20 if regime.startswith("few") else None,
                unnamed=regime.endswith("unnamed"),
            )
        )
        for regime, label in cases
    ]


def many_recipes() -> list[recipes.Recipe]:
    return [
        recipes.parse(
            f'name = "many-{few}"\n'
            + words.recipe(MANY, words.others(MANY, 3 * KEPT), few=few, unnamed=True)
        )
        for few in (None, 20)
    ]


def scored(
    bench: Bench,
    made: list[recipes.Recipe],
    method: str,
    tables: dict,
    beaten: float = -1.0,
) -> dict:
    """Forget, retain and H over all recipes; `few`: H over those with few preserve prompts; seconds
    of an edit, on average; `recipes`: how many were measured.

    Args:
        beaten: an H to beat. The measurement ends after the first recipe from which on it is out of
            reach.
    """
    forgot, kept, few, seconds = [], [], ([], []), []
    for number, recipe in enumerate(made, start=1):
        edit, spent = bench.edit(recipe, method, tables)
        seen = bench.look(recipe, edit, asked(recipe))
        seconds.append(spent)
        forgot += seen.forgot
        kept += seen.kept
        if recipe.name.startswith("few"):
            few[0].extend(seen.forgot)
            few[1].extend(seen.kept)
        if best_possible(forgot, kept, made[number:]) <= beaten:
            break
    return {
        "forget": mean(forgot),
        "retain": mean(kept),
        "h": harmonic(mean(forgot), mean(kept)),
        "forgot": forgot,
        "kept": kept,
        "few": harmonic(mean(few[0]), mean(few[1])) if few[0] else None,
        "edit_seconds": mean(seconds),
        "recipes": len(seconds),
    }


def asked(recipe: recipes.Recipe) -> int:
    """How many direct, and how many indirect prompts of each concept are measured."""
    return ASKED if len(recipe.concepts) == 1 else 1


def best_possible(forgot: list[bool], kept: list[bool], remaining: list[recipes.Recipe]) -> float:
    """H if every picture of the remaining recipes is right."""
    right = [
        (len(c.direct[: asked(r)]) + len(c.indirect[: asked(r)]))
        for r in remaining
        for c in r.concepts
    ]
    stays = [len(t.direct) + len(t.indirect) for r in remaining for t in r.retain]
    return harmonic(mean(forgot + [True] * sum(right)), mean(kept + [True] * sum(stays)))


def tuned(
    bench: Bench, made: list[recipes.Recipe], method: str, trials: int, journal: Path
) -> optuna.trial.FrozenTrial:
    defaults = made[0].model_copy(update={"method": method, "parameters": {}})
    space = SearchSpace.around(defaults, methods.get(method).SEARCH)
    study = open_study(journal, space.start, seed=0)

    def objective(trial: optuna.Trial) -> float:
        values = space.suggest(trial)
        trial.set_user_attr("parameters", nested(values))
        beaten = max((t.value for t in finished(study)), default=-1.0)
        try:
            found = scored(bench, made, method, nested(values), beaten)
        except EditError as fault:
            found = {"h": 0.0, "forget": 0.0, "retain": 0.0, "error": fault.message}
        print(
            f"{method} {trial.number}: H {found['h']:.3f} forget {found['forget']:.2f} retain "
            f"{found['retain']:.2f} recipes {found.get('recipes', 0)} {values}",
            flush=True,
        )
        trial.set_user_attr("scores", found)
        return found["h"]

    def search(trials: int) -> None:
        while len(finished(study)) < trials and (
            not finished(study) or study.best_value < 1
        ):  # no later trial can beat H = 1
            study.optimize(objective, n_trials=1)

    search(trials)
    earlier = tomli.loads(EARLIER.read_text())["methods"].get(method)
    if earlier:
        start = SearchSpace.around(
            defaults.model_copy(update={"parameters": earlier}), methods.get(method).SEARCH
        ).start
        study.enqueue_trial(dict(start), skip_if_exists=True)
        search(trials + 1)
    return max(
        finished(study), key=lambda t: (t.value, -t.number)
    )  # the first of equals: the defaults, if none is better


def main(output: Path, names: list[str], trials: int, prior: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bench = Bench()
    alone, many = (
        [
            words.with_prior(recipe, prior, [r.label or r.concept for r in recipe.retain])
            for recipe in made
        ]
        for made in (tuning_recipes(), many_recipes()[::-1])
    )
    whole = tomlkit.document()
    for method in names:
        made = alone if method in ONE_AT_A_TIME else [*many, *alone]
        best = tuned(bench, made, method, trials, output / f"{method}-{prior}.journal")
        whole.setdefault("methods", tomlkit.table(True))[method] = best.user_attrs["parameters"]
    print("\n" + tomlkit.dumps(whole))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prior", choices=words.PRIORS, default="words")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--methods", nargs="+", default=[n for n in methods.names() if n != "none"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.methods, args.trials, args.prior)
