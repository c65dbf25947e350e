"""The same tuning for every method: so many trials each, on tuning concepts that no published figure uses.

    python benchmarks/tune_methods.py --output WORK [--trials 8] [--methods uce esd]

A trial edits four recipes (one with plentiful prompts, one that names the pair only, two with 20 preserve prompts; see
regimes.py) and draws 14 pictures for each, at equal prompts and seeds for all methods, with 10 sampler steps. Trial 0 has
the method's defaults. Highest H over all pictures wins; ties go to the defaults. What is found is printed as TOML for
benchmarks/parameters.toml. Goes on where it was cut short.
"""
from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import optuna
import tomlkit
import torch
import world_recipes as words
from diffusers import StableDiffusionPipeline

from forgetcli import checkpoint, judges, methods, models, recipe as recipes
from forgetcli.cache import MomentCache
from forgetcli.errors import EditError
from forgetcli.progress import Silent
from forgetcli.statistics import harmonic
from forgetcli.tuning import finished, resumed, suggested, with_own

CASES = (("single", "van_gogh"), ("bare", "running"), ("few", "strawberry"), ("few", "dog"))
ASKED, KEPT, STEPS, SEED, GUIDANCE = 3, 8, 10, 5000, 4.5


class Bench:
    """The model in memory, edited and restored for each trial: nothing is written."""

    def __init__(self, cases=CASES) -> None:
        self.model, self.judge = models.load(checkpoint.resolve("demo"), device="cpu"), judges.load("demo")
        m = self.model
        self.pipe = StableDiffusionPipeline(vae=m.vae, text_encoder=m.text_encoder, tokenizer=m.tokenizer, unet=m.unet, scheduler=m.scheduler,
                                            safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)
        self.recipes = [recipes.parse(f'name = "{regime}-{label}"\n' + words.recipe(
            [label], words.others([label], KEPT), bare=regime == "bare", few=20 if regime == "few" else None)) for regime, label in cases]

    def score(self, method: str, tables: dict) -> dict:
        """Forget, retain and H over all recipes; `few`: H over those with few preserve prompts; seconds of an edit, on average."""
        module = methods.get(method)
        parameters = module.Parameters.model_validate(tables)
        forgot, kept, few, seconds = [], [], ([], []), 0.0
        for recipe in self.recipes:
            start = time.time()
            edit = module.edit(self.model, recipe.model_copy(update={"method": method}), parameters, MomentCache(), Silent())
            seconds += time.time() - start
            (concept,) = recipe.concepts
            asked = [(p, concept.label) for p in (*concept.direct[:ASKED], *concept.indirect[:ASKED])]
            asked += [(p, r.label) for r in recipe.retain for p in (*r.direct, *r.indirect)]
            with self.model.weights(edit.weights):
                pictures = self.drawn([p for p, _ in asked])
            seen = [s.seen for s in self.judge.see(pictures, [label for _, label in asked])]
            forgot += [not s for s in seen[:2 * ASKED]]
            kept += seen[2 * ASKED:]
            if recipe.name.startswith("few"):
                few[0].extend(not s for s in seen[:2 * ASKED])
                few[1].extend(seen[2 * ASKED:])
        return {"forget": mean(forgot), "retain": mean(kept), "h": harmonic(mean(forgot), mean(kept)), "forgot": forgot, "kept": kept,
                "few": harmonic(mean(few[0]), mean(few[1])) if few[0] else None, "edit_seconds": seconds / len(self.recipes)}

    def drawn(self, prompts: list[str]) -> list:
        pictures = []
        for start in range(0, len(prompts), 16):
            part = prompts[start:start + 16]
            noise = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(part))]
            pictures += self.pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise).images
        return pictures


def mean(values: list) -> float:
    return sum(values) / len(values)


def nested(values: dict) -> dict:
    tables: dict = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = list(value) if isinstance(value, tuple) else value
    return tables


def tuned(bench: Bench, method: str, trials: int, output: Path) -> optuna.trial.FrozenTrial:
    space, own = with_own(bench.recipes[0].model_copy(update={"method": method, "parameters": {}}), methods.get(method).SEARCH)
    study = resumed(output / f"{method}.journal", own, seed=0)

    def objective(trial: optuna.Trial) -> float:
        values = {key: suggested(trial, key, dimension) for key, dimension in space.items()}
        trial.set_user_attr("parameters", nested(values))
        try:
            found = bench.score(method, nested(values))
        except EditError as fault:
            found = {"h": 0.0, "forget": 0.0, "retain": 0.0, "error": fault.message}
        print(f"{method} {trial.number}: H {found['h']:.3f} forget {found['forget']:.2f} retain {found['retain']:.2f} {values}", flush=True)
        trial.set_user_attr("scores", found)
        return found["h"]

    while len(finished(study)) < trials:
        study.optimize(objective, n_trials=1)
    return max(finished(study), key=lambda t: (t.value, -t.number))   # the first of equals: the defaults, if none is better


def main(output: Path, names: list[str], trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.disable(logging.WARNING)
    bench = Bench()
    whole = tomlkit.document()
    for method in names:
        best = tuned(bench, method, trials, output)
        whole.setdefault("methods", tomlkit.table(True))[method] = best.user_attrs["parameters"]
    print("\n" + tomlkit.dumps(whole))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=[n for n in methods.names() if n != "none"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    main(args.output, args.methods, args.trials)
