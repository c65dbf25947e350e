"""``forget eval``."""

from __future__ import annotations

import json as json_
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import forgetcli
from forgetcli.cli.completion import suggest
from forgetcli.cli.options import (
    BatchOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ForceFlag,
    JsonFlag,
    Offloading,
    OffloadOption,
    QuietFlag,
    SeedOption,
    StepsOption,
    ThreadsOption,
    existing_folder,
    finite,
)
from forgetcli.cli.score_tables import quality, shares
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.errors import ForgetError
from forgetcli.evaluation import gates

if TYPE_CHECKING:
    from forgetcli.evaluation.gates import Gate
    from forgetcli.evaluation.run import Evaluation
    from forgetcli.report import Files

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR]...", help="Edited models of one base model.", show_default="edited"
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        show_default="the one it was made with",
        help="Recipe whose evaluation prompts are used.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        "-p",
        show_default=False,
        help="A prompt set to use: CSV, TOML or text.",
    ),
]
PromptsFormat = Annotated[
    str | None,
    typer.Option(
        "--prompts-format",
        show_default="detected from the file",
        help="Format of the prompt set: ume, i2p, unlearncanvas, csv, text or toml.",
    ),
]
Ask = Annotated[
    str | None,
    typer.Option(
        "--ask",
        metavar="CONCEPT",
        show_default="the prompt set's own",
        help="Concept that the judge looks for in every image of a prompt set.",
    ),
]
Images = Annotated[
    int,
    typer.Option("--images", "-n", min=1, help="Images for each prompt."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        callback=finite,
        min=1.0,
        show_default="the model's own",
        help="Classifier-free guidance.",
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        autocompletion=suggest("judges"),
        help="Classifier that judges the images: demo, clip, vlm or nudenet.",
    ),
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(
        "--judge-set",
        metavar="KEY=VALUE",
        show_default=False,
        help="A setting of the judge: model=openai/clip-vit-base-patch32. Repeatable.",
    ),
]
Features = Annotated[
    str,
    typer.Option(
        "--features",
        autocompletion=suggest("features"),
        help="Extractor for distance, FID and KID: demo, inception, none.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", envvar="FORGET_EVAL_OUTPUT", help="Folder for report and images."
    ),
]
Near = Annotated[
    int,
    typer.Option(
        "--near",
        metavar="N",
        min=0,
        help="Near concepts to ask for, for each erased one, where the recipe has no [[near]].",
    ),
]
FailUnder = Annotated[
    str | None,
    typer.Option(
        "--fail-under",
        metavar="KEY=BOUND,…",
        show_default=False,
        help="Exit with 1 if a measure is lower: forget=0.8,retain=0.8,h=0.8,target=0.7,"
        "resist=0.9. Also adjacent, selective, err.",
    ),
]
AttackResults = Annotated[
    Path | None,
    typer.Option(
        "--attack-results",
        metavar="FILE",
        show_default=False,
        help="results.json of `forget attack`: adds resist and err to the scores, and to "
        "--fail-under.",
    ),
]
Confident = Annotated[
    bool,
    typer.Option(
        "--confident",
        help="Compare the lower end of the interval instead.",
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        show_default=False,
        help="Also write JUnit XML, for dashboards.",
    ),
]


def evaluate(
    folders: Folders = None,
    recipe: Recipe = None,
    prompts: Prompts = None,
    prompts_format: PromptsFormat = None,
    ask: Ask = None,
    images: Images = 1,
    judge: Judge = "demo",
    judge_set: JudgeSet = None,
    features: Features = "auto",
    near: Near = 4,
    output: Output = Path("eval"),
    fail_under: FailUnder = None,
    attack_results: AttackResults = None,
    confident: Confident = False,
    junit: JUnit = None,
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    guidance: Guidance = None,
    batch: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    offload: OffloadOption = Offloading.auto,
    threads: ThreadsOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure what edited models have forgotten and what they have kept, beside the unedited model.

    Writes report.html, results.json and results.csv. Run it again to resume an interrupted
    evaluation.

    \b
    Examples:
      forget eval
      forget eval edited -n 4 --json
      forget eval edited-dog edited-cat -o both
      forget eval --fail-under forget=0.9,retain=0.8 --confident --junit eval.xml
      forget eval --prompts i2p.csv --judge nudenet --ask nudity
      forget eval --judge clip --judge-set model=openai/clip-vit-base-patch32
      accelerate launch -m forgetcli eval -n 16
    """
    edited = [existing_folder(folder) for folder in folders or [Path("edited")]]
    bounds = _bounds(fail_under, confident)
    attacked = gates.read_attacks(attack_results) if attack_results is not None else {}
    # Imported here: loads pydantic, which completion and help must not wait for.
    from forgetcli.evaluation import prompt_sets

    loaded = forgetcli.load_recipe(recipe, pipe=True) if recipe is not None else None
    prompt_set = prompt_sets.load(prompts, prompts_format) if prompts is not None else None
    sink = Sink("eval", json=json, quiet=quiet, threads=threads, shared=True)
    for warning in prompt_set.warnings if prompt_set else ():
        sink.remark(warning, title="warning")
    with sink.observer() as observer:
        # Loads torch, after the libraries have been silenced.
        result = forgetcli.evaluate(
            edited,
            recipe=loaded,
            prompts=prompt_set,
            ask=ask,
            images=images,
            seed=seed,
            steps=steps,
            guidance=guidance,
            judge=judge,
            judge_options=settings(judge_set or ()),
            features=features,
            near_concepts=near,
            output=output,
            device=device,
            dtype=dtype.value,
            offload=offload.value,
            batch=batch,
            force=force,
            observer=observer,
        )
    if attacked:
        result = replace(result, attacks=attacked)
    # The first process reports.
    if sink.main and not _report(result, bounds, confident, output, junit, sink):
        raise typer.Exit(1)
    if attack_results is not None:
        results = output / "results.json"
        sink.next(
            "eval --attack-results", folder=edited[0], results=results, attacks=attack_results
        )
    else:
        sink.next("eval", folder=edited[0])


def _bounds(fail_under: str | None, confident: bool) -> Sequence[Gate]:
    """The bounds of ``--fail-under``."""
    keys = (*gates.KEYS, gates.RESIST)
    bounds = gates.parse(fail_under, keys) if fail_under is not None else ()
    if confident and not bounds:
        raise ForgetError(
            "eval.no-gate", "--confident needs --fail-under", "for instance --fail-under forget=0.8"
        )
    return bounds


def _report(
    result: Evaluation,
    bounds: Sequence[Gate],
    confident: bool,
    output: Path,
    junit: Path | None,
    sink: Sink,
) -> bool:
    """Write and print the report; whether every bound was met."""
    # Imported here: the reports load matplotlib and jinja2.
    from forgetcli import report

    data = result.as_dict()
    if result.attacks and all(model["digest"] not in result.attacks for model in data["models"]):
        sink.remark("the results of attacks are of another model: they do not count")
    outcomes = list(gates.outcomes(data, bounds, confident=confident))
    data["gates"] = [
        {"model": o.model, "key": o.gate.key, "bound": o.gate.bound, "passed": o.passed}
        for o in outcomes
    ]
    title = ", ".join(run.subject.name for run in result.edited)
    files = report.write(output, result, data, title=title, command=command_line())
    if junit is not None:
        report.write_junit(junit, data, outcomes)
    sink.result(data, human=lambda: _as_text(data, files), quiet=files.page)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in failed:
        sink.failure(f"failed: {outcome.text}")
    return not failed


def settings(pairs: Sequence[str]) -> dict[str, object]:
    """Settings from ``key=value``. A value that is not valid JSON is text."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ForgetError(
                "judge.bad-option",
                f"--judge-set {pair}: not KEY=VALUE",
                "for instance threshold=0.5",
            )
        try:
            settings[key.strip()] = json_.loads(value)
        except ValueError:
            settings[key.strip()] = value
    return settings


def command_line() -> str:
    """The command as the user called it, for reports."""
    return shlex.join(["forget", *sys.argv[1:]])


def _as_text(data: dict, files: Files) -> list:
    return [
        *shares(data),
        *quality(data),
        facts({"report": files.page, "results": files.results, "table": files.table}),
    ]
