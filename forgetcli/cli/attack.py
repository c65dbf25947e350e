"""``forget attack``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import forgetcli
from forgetcli.cli.eval import (
    Confident,
    Guidance,
    Judge,
    JudgeSet,
    command_line,
    settings,
)
from forgetcli.cli.options import (
    DeviceOption,
    ForceFlag,
    JsonFlag,
    QuietFlag,
    SeedOption,
    StepsOption,
    ThreadsOption,
    existing_folder,
    known_model,
)
from forgetcli.cli.score_tables import outcomes
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.errors import ForgetError
from forgetcli.evaluation import gates

if TYPE_CHECKING:
    from forgetcli.robustness import Robustness

Folder = Annotated[
    str,
    typer.Argument(
        metavar="[DIR]",
        help="The edited model. With --replay it can be any model.",
    ),
]
Attacks = Annotated[
    str | None,
    typer.Option(
        "--attacks",
        metavar="NAME,…",
        show_default="all but relearn",
        help="Attacks to run: swap, paraphrase, ring-a-bell, p4d, unlearndiffatk, inversion, "
        "context, noise, completion, relearn.",
    ),
]
AttackSet = Annotated[
    list[str] | None,
    typer.Option(
        "--attack-set",
        metavar="ATTACK.KEY=VALUE",
        show_default=False,
        help="A setting of an attack, such as inversion.steps=1000. Repeatable.",
    ),
]
Published = Annotated[
    bool,
    typer.Option("--published", help="Use the settings of the attacks' papers. They need a GPU."),
]
Concepts = Annotated[
    list[str] | None,
    typer.Option(
        "--concept",
        metavar="CONCEPT",
        show_default="all edited concepts",
        help="Attack only this concept. Repeatable.",
    ),
]
Floor = Annotated[
    str | None,
    typer.Option(
        "--floor",
        metavar="MODEL",
        show_default=False,
        help="A model that never learned the concepts. It is attacked too, as the lower bound.",
    ),
]
NoControl = Annotated[
    bool,
    typer.Option(
        "--no-control",
        help="Do not attack the unedited model. Without it, no attack gives a verdict.",
    ),
]
Images = Annotated[
    int,
    typer.Option("--images", "-n", min=1, help="Attempts to generate the concept, per attack."),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images generated at a time.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", envvar="FORGET_ATTACK_OUTPUT", help="Folder for the report and images."
    ),
]
Replay = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        metavar="FILE",
        show_default=False,
        help="Run no attack, but use with DIR what an earlier attack found, such as "
        "attack/edited/inversion-dog.safetensors.",
    ),
]
FailUnder = Annotated[
    str | None,
    typer.Option(
        "--fail-under",
        metavar="resist=BOUND",
        show_default=False,
        help="Exit with 1 if resist (1 − success rate of the strongest attack) is below BOUND.",
    ),
]


def attack(
    folder: Folder = "edited",
    attacks: Attacks = None,
    attack_set: AttackSet = None,
    published: Published = False,
    concepts: Concepts = None,
    floor: Floor = None,
    no_control: NoControl = False,
    replay: Replay = None,
    images: Images = 12,
    judge: Judge = "demo",
    judge_set: JudgeSet = None,
    output: Output = Path("attack"),
    fail_under: FailUnder = None,
    confident: Confident = False,
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    guidance: Guidance = None,
    batch: Batch = 12,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try to bring back what an edited model was made to forget.

    Every attack also runs on the unedited model. An attack that fails there is too weak to give a
    verdict. Writes report.html and results.json. Run it again to resume an interrupted run or to
    add attacks.

    \b
    Examples:
      forget attack
      forget attack edited --attacks swap,inversion --concept dog
      forget attack --attack-set inversion.steps=1000 --fail-under resist=0.9 --confident
      forget attack --floor path/to/never-learned
      forget attack --replay attack/edited/inversion-dog.safetensors edited-2 -o replay
    """
    bounds = _bounds(fail_under, confident)
    sink = Sink("attack", json=json, quiet=quiet, threads=threads, shared=True)
    if replay is not None:
        if bounds:
            raise ForgetError(
                "attack.replay-gate",
                "--replay runs no attack, so --fail-under has no figure to compare",
                "leave out --replay or --fail-under",
            )
        known_model(folder)
        _replay(
            sink,
            replay,
            folder,
            judge=judge,
            judge_options=settings(judge_set or ()),
            steps=steps,
            guidance=guidance,
            batch=batch,
            output=output,
            device=device,
            force=force,
        )
        return
    existing_folder(Path(folder))
    with sink.observer() as observer:
        result = forgetcli.attack(
            folder,
            attacks=attack_names(attacks),
            options=attack_settings(attack_set or ()),
            published=published,
            concepts=concepts or (),
            control=not no_control,
            floor=floor,
            judge=judge,
            judge_options=settings(judge_set or ()),
            images=images,
            seed=seed,
            steps=steps,
            guidance=guidance,
            batch=batch,
            output=output,
            device=device,
            force=force,
            observer=observer,
        )
    # Only the first process reports.
    if sink.main and not _report(sink, result, bounds, confident):
        raise typer.Exit(1)
    sink.next("attack", folder=folder, results=output / "results.json")


def _bounds(fail_under: str | None, confident: bool) -> Sequence[gates.Gate]:
    bounds = gates.parse(fail_under, (gates.RESIST,)) if fail_under is not None else ()
    if confident and not bounds:
        raise ForgetError(
            "eval.no-gate",
            "--confident needs --fail-under",
            "for example --fail-under resist=0.9",
        )
    return bounds


def attack_names(attacks: str | None) -> list[str] | None:
    """The attacks in a list with commas; None if there is no list."""
    if attacks is None:
        return None
    names = [name.strip() for name in attacks.split(",") if name.strip()]
    if not names:
        raise ForgetError(
            "attack.no-attack", "--attacks names no attack", "for example swap,inversion"
        )
    return names


def attack_settings(pairs: Sequence[str]) -> dict[str, dict[str, object]]:
    """The settings of each attack, from ``ATTACK.KEY=VALUE``."""
    settings_of: dict[str, dict[str, object]] = {}
    for pair in pairs:
        name, dot, rest = pair.partition(".")
        if not dot or "=" not in rest or "=" in name:
            raise ForgetError(
                "attack.bad-option",
                f"--attack-set {pair}: not ATTACK.KEY=VALUE",
                "for example inversion.steps=1000",
            )
        settings_of.setdefault(name.strip(), {}).update(settings([rest]))
    return settings_of


def _report(sink: Sink, result: Robustness, bounds: Sequence[gates.Gate], confident: bool) -> bool:
    """Write and print the report. Returns whether the result meets all bounds."""
    # Imported here, because the report loads jinja2.
    from forgetcli.report import robustness as report

    data = result.as_dict()
    checked = [gates.outcome(data["model"]["name"], data, gate, confident) for gate in bounds]
    data["gates"] = [
        {"key": outcome.gate.key, "bound": outcome.gate.bound, "passed": outcome.passed}
        for outcome in checked
    ]
    files = report.write(result.folder, result, data, command=command_line())
    sink.result(
        data,
        human=lambda: [
            outcomes(data),
            facts({"report": files.page, "results": files.results}),
        ],
        quiet=files.page,
    )
    for each in data["attacks"]:
        if each["no_verdict"] and each["unedited"]:
            name = f"{each['attack']} on {each['label']}"
            sink.remark(f"{name} gives no verdict: {each['no_verdict']}", title="note")
    failed = [outcome for outcome in checked if not outcome.passed]
    for outcome in failed:
        sink.failure(f"failed: {outcome.text}")
    return not failed


def _replay(sink: Sink, file: Path, model: str, **options: object) -> None:
    with sink.observer() as observer:
        # Imported here, because it loads torch and other libraries, which must be silenced first.
        from forgetcli.robustness.replay import replay

        result = replay(file, model, observer=observer, **options)  # type: ignore[arg-type]
    data = result.as_dict()
    rate = result.success
    summary = f"{rate.successes} of {rate.count} images show {result.label}"
    sink.result(
        data,
        human=lambda: facts({"attack": result.attack, "result": summary, "images": result.folder}),
        quiet=result.folder,
    )
