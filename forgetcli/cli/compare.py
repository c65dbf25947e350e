"""``forget compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import forgetcli
from forgetcli.cli.attack import AttackSet, attack_names, attack_settings
from forgetcli.cli.completion import suggest
from forgetcli.cli.dry_run import show as show_plan
from forgetcli.cli.eval import Features, Guidance, Images, Judge, JudgeSet, command_line, settings
from forgetcli.cli.options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    DryRunFlag,
    Dtype,
    DtypeOption,
    ForceFlag,
    JsonFlag,
    ModelOption,
    QuietFlag,
    SeedOption,
    StepsOption,
    ThreadsOption,
)
from forgetcli.cli.score_tables import attack_methods, methods
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts

if TYPE_CHECKING:
    from forgetcli.report import Files

Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE…",
        help="Recipe files, or names of bundled recipes.",
        autocompletion=suggest("recipes"),
        show_default=False,
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        metavar="NAME,…",
        autocompletion=suggest("method_list"),
        help="Methods to compare, or all.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Use only three prompts of a kind for each concept and six retained concepts, for a "
        "first look.",
    ),
]
Attacks = Annotated[
    str | None,
    typer.Option(
        "--attacks",
        metavar="NAME,…",
        show_default="none",
        help="Also attack every method's edit, and the unedited model: swap, inversion, … "
        "(forget attack --help).",
    ),
]
Attempts = Annotated[
    int,
    typer.Option("--attempts", min=1, help="Attempts of each attack at each concept."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_COMPARE_OUTPUT",
        help="Folder for edits, images and the table.",
    ),
]


def compare(
    recipes: Recipes,
    methods: Methods = "all",
    quick: Quick = False,
    attacks: Attacks = None,
    attack_set: AttackSet = None,
    attempts: Attempts = 12,
    images: Images = 1,
    judge: Judge = "demo",
    judge_set: JudgeSet = None,
    features: Features = "auto",
    output: Output = Path("compare"),
    model: ModelOption = None,
    config: ConfigOption = None,
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    guidance: Guidance = None,
    batch: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    threads: ThreadsOption = None,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Edit by RECIPE with every method, and score all results beside the unedited model, at equal
    prompts and seeds.

    A method takes its parameters from the recipe's [methods.NAME], otherwise its defaults. Writes
    report.html, results.json, results.csv and compare.md; with --attacks also attacks.csv. Run it
    again to resume an interrupted comparison, or with other --methods or --attacks to add to it.

    \b
    Examples:
      forget compare art_styles
      forget compare art_styles --methods nullspace,uce --quick
      forget compare objects --methods nullspace,uce --attacks swap,inversion
      forget compare art_styles objects scenes -n 4 -o all-methods --json
      forget compare art_styles --dry-run
      accelerate launch -m forgetcli compare art_styles
    """
    # Imported here: loads pydantic, which completion and help must not wait for.
    from forgetcli.experiments import comparison

    sink = Sink("compare", json=json, quiet=quiet, threads=threads, shared=True)
    names = comparison.chosen(methods)
    loaded = [forgetcli.load_recipe(recipe) for recipe in recipes]
    for warning in (
        warning for recipe in loaded for warning in recipe.warnings_on(model or recipe.model)
    ):
        sink.remark(warning, title="warning")
    both: dict[str, Any] = {
        "methods": names,
        "model": model,
        "config": config,
        "images": images,
        "judge": judge,
        "judge_options": settings(judge_set or ()),
        "features": features,
        "quick": quick,
        "output": output,
        "device": device,
        "dtype": dtype.value,
        "force": force,
    }
    if dry_run:
        show_plan(sink, lambda previews: previews.of_comparison(loaded, **both))
        return
    with sink.observer() as observer:
        # Imported here: loads matplotlib and jinja2, after the libraries have been silenced.
        from forgetcli.report import comparison as report

        result = comparison.compare(
            loaded,
            seed=seed,
            steps=steps,
            guidance=guidance,
            batch=batch,
            attacks=attack_names(attacks) or (),
            attack_options=attack_settings(attack_set or ()),
            attempts=attempts,
            observer=observer,
            **both,
        )
    if not sink.main:
        # The first process reports.
        return
    data = result.as_dict()
    files = report.write(output, result, data, command=command_line())
    sink.result(data, human=lambda: _as_text(data, files), quiet=files.page)
    for recipe in data["recipes"]:
        for warning in _warnings(recipe):
            sink.remark(warning, title="warning")
    best = _best(data["recipes"][0])
    if best is not None:
        named = None if model is None else ["--model", model]
        sink.next("compare", recipe=recipes[0], method=best, model=named)


def _best(recipe: dict) -> str | None:
    """The method with the highest H; None if none was scored."""
    scored = [row for row in recipe["methods"] if row.get("h") and row["name"] != "none"]
    return max(scored, key=lambda row: row["h"])["name"] if scored else None


def _warnings(recipe: dict) -> list[str]:
    """A line for each method that failed with a recipe."""
    return [
        f"{recipe['name']}: {row['name']} failed: "
        f"{row['error']['message']} ({row['error']['code']})"
        for row in recipe["methods"]
        if row["error"]
    ]


def _as_text(data: dict, files: Files) -> list:
    return [
        *methods(data),
        *attack_methods(data),
        facts(
            {
                "report": files.page,
                "results": files.results,
                "table": files.table,
                "markdown": files.markdown,
            }
        ),
    ]
