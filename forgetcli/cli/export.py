"""``forget export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli import export as exports
from forgetcli.cli.completion import suggest
from forgetcli.cli.next_steps import STEPS
from forgetcli.cli.options import DryRunFlag, ForceFlag, JsonFlag, QuietFlag, existing_folder
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts, table


def format_names(incomplete: str) -> list[str]:
    """Export formats that begin with `incomplete`, for completion."""
    return [name for name in exports.names() if name.startswith(incomplete)]


Folder = Annotated[
    Path, typer.Argument(metavar="DIR", callback=existing_folder, help="The edited model.")
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        show_default=False,
        autocompletion=format_names,
        help="delta, lora, single-file, diffusers or cyclonedx.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="FORGET_EXPORT_OUTPUT",
        show_default="DIR-FORMAT, here",
        help="File or folder to write.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        show_default="the one it names",
        help="LoRA only: the base model.",
    ),
]
Naming = Annotated[
    str | None,
    typer.Option(
        "--naming",
        autocompletion=suggest("namings"),
        envvar="FORGET_LORA_NAMING",
        show_default="diffusers",
        help="LoRA only: naming scheme of the keys, diffusers or kohya.",
    ),
]
Error = Annotated[
    float | None,
    typer.Option(
        "--error",
        envvar="FORGET_LORA_ERROR",
        show_default="0.001",
        help="LoRA only: relative error allowed when truncating the change to low rank.",
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        envvar="FORGET_LORA_RANK",
        show_default="as --error requires",
        help="LoRA only: largest rank.",
    ),
]

Results = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        metavar="FILE",
        envvar="FORGET_EXPORT_EVAL",
        show_default="eval/results.json, if it is of this model",
        help="CycloneDX only: scores, the results.json of forget eval.",
    ),
]
AttackResults = Annotated[
    Path | None,
    typer.Option(
        "--attack-results",
        metavar="FILE",
        envvar="FORGET_EXPORT_ATTACK_RESULTS",
        show_default="attack/results.json, if it is of this model",
        help="CycloneDX only: the results.json of forget attack.",
    ),
]


def export(
    format: Format,
    folder: Folder = Path("edited"),
    output: Output = None,
    base: Base = None,
    naming: Naming = None,
    error: Error = None,
    rank: Rank = None,
    results: Results = None,
    attack_results: AttackResults = None,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write an edited model in the format of another tool.

    \b
    delta        only the changed tensors; forget apply --delta applies them to the base
    lora         for a strength slider; --naming kohya for ComfyUI and A1111
    single-file  a whole .safetensors checkpoint, for ComfyUI and A1111
    diffusers    a plain folder, without forget's own files
    cyclonedx    a bill of materials (ML-BOM): base, edited tensors, digests, scores, limits

    \b
    Examples:
      forget export edited --format delta
      forget export edited --format lora --naming kohya -o forget-van-gogh.safetensors
      forget export edited --format lora --error 0.01 --json
      forget export edited --format single-file
      forget export edited --format cyclonedx -o bom.json
    """
    sink = Sink("export", json=json, quiet=quiet)
    given = {
        "naming": naming,
        "error": error,
        "rank": rank,
        "eval": results,
        "attack_results": attack_results,
    }
    with sink.observer() as observer:
        done = exports.export(
            folder,
            format,
            output=output,
            base=base,
            options={key: value for key, value in given.items() if value is not None},
            force=force,
            dry_run=dry_run,
            observer=observer,
        )
    data = done.as_dict()
    sink.result(data, human=lambda: _as_text(data), quiet=() if dry_run else done.output)
    name = f"export --format {format}"
    # Other formats are for other tools.
    if name in STEPS and not dry_run:
        sink.next(name, folder=folder, output=done.output)


def _as_text(data: dict) -> list:
    rows = data.get("tensors")
    if not isinstance(rows, list):
        missing = " ".join(data.get("missing", ())) or None
        return [facts({**data, "missing": missing, "seconds": data["seconds"]["total"]})]
    figures = table(
        (
            "tensor",
            ">rank",
            ">of",
            ">error",
            ">error / ‖W‖",
            ">rounded when stored",
            ">rank without rounding noise",
        ),
        (
            [
                f"{row['component']} {row['parameter']}",
                row["rank"],
                row["full_rank"],
                *(f"{row[key]:.2e}" for key in ("error", "weight_error", "stored_error")),
                row["rank_of_edit"],
            ]
            for row in rows
        ),
    )
    return [figures, facts({**data, "tensors": None, "seconds": data["seconds"]["total"]})]
