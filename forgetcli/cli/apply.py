"""``forget apply``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import forgetcli
from forgetcli.cli.completion import suggest
from forgetcli.cli.edit_tables import extent, outcome, plan, sites
from forgetcli.cli.options import (
    ConfigOption,
    DeviceOption,
    DryRunFlag,
    Dtype,
    DtypeOption,
    ForceFlag,
    JsonFlag,
    MethodOption,
    ModelOption,
    Offloading,
    OffloadOption,
    QuietFlag,
    SetOption,
    ThreadsOption,
    known_model,
)
from forgetcli.cli.progress import opening, silence_hub
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts
from forgetcli.errors import ForgetError
from forgetcli.progress import Stages
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.pipeline.plan import Plan
    from forgetcli.recipe import Recipe

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", envvar="FORGET_APPLY_OUTPUT", help="Folder for the edited model."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print the figures of every edited layer."),
]
OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or a bundled recipe's name.",
        autocompletion=suggest("recipes"),
        show_default=False,
    ),
]
Delta = Annotated[
    Path | None,
    typer.Option(
        "--delta",
        metavar="FILE",
        show_default=False,
        help="Instead of a recipe: apply the edit in FILE (forget export --format delta) to its "
        "base model.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ORG/NAME",
        envvar="FORGET_FROM",
        show_default=False,
        help="Instead of a recipe: repeat the edit of an edited model on the hub.",
    ),
]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient",
        help="Write the edit even if the check finds it too weak or too strong.",
    ),
]
Link = Annotated[
    bool,
    typer.Option(
        "--link",
        help="Hard-link unedited files: no space, but the base shares them; do not write to them.",
    ),
]
Copy = Annotated[
    bool,
    typer.Option(
        "--copy",
        help="Copy every byte, even where the file system could share them.",
    ),
]


def apply(
    recipe: OptionalRecipe = None,
    model: ModelOption = None,
    delta: Delta = None,
    from_: From = None,
    config: ConfigOption = None,
    method: MethodOption = None,
    output: Output = Path("edited"),
    set_: SetOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    offload: OffloadOption = Offloading.auto,
    threads: ThreadsOption = None,
    link: Link = False,
    copy: Copy = False,
    force: ForceFlag = False,
    lenient: Lenient = False,
    dry_run: DryRunFlag = False,
    verbose: Verbose = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Edit a model as RECIPE says, and write it with its provenance.

    \b
    Examples:
      forget apply art_styles
      forget apply my.toml --model path/to/sd-folder -o edited-sd
      forget apply my.toml --model v1-5.safetensors --config path/to/sd-folder --link
      forget apply art_styles --set refine.steps=20 --force
      forget apply art_styles --method uce -o edited-uce
      forget apply art_styles --dry-run --json
      forget apply --delta edited-delta.safetensors -o edited
      forget apply --from my-org/sd-without-van-gogh -o again
    """
    sink = Sink("apply", json=json, quiet=quiet, threads=threads)
    if link and copy:
        raise ForgetError("usage", "--link and --copy exclude each other", "leave one of them out")
    copying = "link" if link else ("copy" if copy else "reflink")
    if delta is not None:
        if recipe or set_ or method or dry_run:
            raise typer.BadParameter(
                "a delta holds a finished edit: RECIPE, --set, --method and --dry-run do not apply",
                param_hint="--delta",
            )
        _apply_delta(delta, model, config, output, copying, force, sink, verbose)
        return
    if from_ is not None:
        if recipe or set_ or method or dry_run or config:
            raise typer.BadParameter(
                "the edited model says how: RECIPE, --set, --method, --config and --dry-run do not "
                "apply",
                param_hint="--from",
            )
        chosen = None if dtype is Dtype.auto else dtype.value
        _repeat(from_, model, output, device, chosen, copying, force, sink, verbose)
        return
    if recipe is None:
        raise typer.BadParameter("give a recipe, --delta or --from", param_hint="RECIPE")
    loaded = forgetcli.load_recipe(recipe, set_ or (), method, pipe=True)
    for warning in loaded.warnings_on(model or loaded.model):
        sink.remark(warning, title="warning")
    known_model(model or loaded.model)
    if dry_run:
        _plan(loaded, model, config, output, device, dtype.value, sink)
        return
    with sink.observer() as shown:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.pipeline.apply import STAGES

        seconds = _estimate(loaded, model, config, device, dtype, sink)
        observer = Stages(shown, STAGES, opening(STAGES, output, seconds))
        result = forgetcli.apply(
            loaded,
            model=model,
            output=output,
            device=device,
            dtype=dtype.value,
            offload=offload.value,
            force=force,
            strict=not lenient,
            config=config,
            copying=copying,
            observer=observer,
        )
    data = result.as_dict()
    sink.result(data, human=lambda: _as_text(data, verbose), quiet=output)
    first = loaded.concepts[0]
    prompt = (*first.indirect, *first.direct, first.concept)[0]
    sink.next("apply", prompt=prompt, output=output)


def _estimate(
    recipe: Recipe,
    model: str | None,
    config: str | None,
    device: str | None,
    dtype: Dtype,
    sink: Sink,
) -> float | None:
    """Estimated seconds of an edit, for somebody who is watching; else None.

    The estimate takes a second or two, which a script should not pay for.
    """
    if sink.quiet or not sys.stderr.isatty():
        return None
    named = dtype.value
    return _planned(recipe, model, config, device, named).estimates.seconds


def _planned(
    recipe: Recipe, model: str | None, config: str | None, device: str | None, dtype: str | None
) -> Plan:
    # Imported here: loads torch.
    from forgetcli.pipeline.plan import plan as make_plan

    return make_plan(recipe, model=model, config=config, device=device, dtype=dtype)


def _apply_delta(
    delta: Path,
    model: str | None,
    config: str | None,
    output: Path,
    copying: str,
    force: bool,
    sink: Sink,
    verbose: bool,
) -> None:
    with sink.observer() as observer:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.pipeline.apply_delta import apply_delta

        result = apply_delta(
            delta,
            model=model,
            config=config,
            output=output,
            copying=copying,
            force=force,
            observer=observer,
        )
    data = result.as_dict()
    sink.result(data, human=lambda: _as_text(data, verbose), quiet=output)
    sink.next("apply --delta", output=output)


def _repeat(
    name: str,
    model: str | None,
    output: Path,
    device: str | None,
    dtype: str | None,
    copying: str,
    force: bool,
    sink: Sink,
    verbose: bool,
) -> None:
    """Repeat the edit of a published model. Its base is `model`, or what is on this machine."""
    if not force:
        atomic.refuse_existing(output, force=force)
    with sink.observer() as observer:
        # Imported here: loads torch, after the libraries have been silenced.
        from forgetcli.artifact import published
        from forgetcli.verification.repeat import repeated

        observer.stage("fetching")
        found = published.fetched(name, model)
        done = repeated(
            found.model,
            output,
            device=device,
            dtype=dtype,
            copying=copying,
            force=force,
            observer=observer,
        )
    data = done.as_dict() | {"from": found.name}
    same = f"{done.same} of {done.tensors} edited tensors are those of {found.name}, byte for byte"
    sink.result(data, human=lambda: [*_as_text(data, verbose), same], quiet=output)
    sink.next("apply --from", output=output)


def _plan(
    recipe: Recipe,
    model: str | None,
    config: str | None,
    output: Path,
    device: str | None,
    dtype: str | None,
    sink: Sink,
) -> None:
    silence_hub()
    data = _planned(recipe, model, config, device, dtype).as_dict()
    # Quiet: there is no path, because nothing was written.
    sink.result(data, human=lambda: plan(data), quiet=())


def _as_text(data: dict, verbose: bool) -> list:
    rest = {key: data[key] for key in ("output", "cache") if data.get(key)}
    rest |= {"check": data["check"]} if verbose and data.get("check") else {}
    return [
        *filter(None, [outcome(data.get("check") or {})]),
        *(sites(data["sites"]) if verbose else [extent(data["sites"])]),
        facts({**rest, "seconds": data["seconds"]["total"]}),
    ]
