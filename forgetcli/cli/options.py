"""Flags that several commands share. Every flag of forget can also be set by a FORGET_* variable."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from forgetcli.bundled.recipes import bundled


class Dtype(StrEnum):
    """What the model runs in; the edit itself is solved in float64 always."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def recipe_names(incomplete: str) -> list[str]:
    return [name for name in bundled() if name.startswith(incomplete)]


JsonFlag = Annotated[
    bool, typer.Option("--json", envvar="FORGET_JSON", help="Print one JSON object.")
]
QuietFlag = Annotated[
    bool,
    typer.Option("--quiet", "-q", envvar="FORGET_QUIET", help="Print only the path; no progress."),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or a bundled recipe's name.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        envvar="FORGET_SET",
        show_default=False,
        help="Change a recipe's key: refine.steps=6, concepts.0.target=monet. Repeatable.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="FORGET_MODEL",
        show_default=False,
        help="demo, a diffusers folder, a .safetensors file, or a hub id.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="DIR",
        envvar="FORGET_CONFIG",
        show_default="config/ beside it, or fetched",
        help="For a .safetensors file: the diffusers folder, or hub id, with its configs and tokenizer.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        envvar="FORGET_DEVICE",
        show_default="detected",
        help="cuda, cuda:1, mps or cpu.",
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype", envvar="FORGET_DTYPE", show_default="float32", help="What the model runs in."
    ),
]
StepsOption = Annotated[
    int,
    typer.Option("--steps", min=1, envvar="FORGET_STEPS", help="Sampler steps for each picture."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, envvar="FORGET_SEED", help="First seed.")
]
BatchOption = Annotated[
    int, typer.Option("--batch", min=1, envvar="FORGET_BATCH", help="Pictures at a time.")
]
ForceFlag = Annotated[
    bool, typer.Option("--force", "-f", envvar="FORGET_FORCE", help="Replace an earlier output.")
]


def show_help(context: typer.Context) -> None:
    """For a group of commands called without one: its help, on stderr, as a usage error."""
    if context.invoked_subcommand is None:
        import contextlib
        import sys

        with contextlib.redirect_stdout(sys.stderr):
            text = context.get_help()  # typer prints by itself with rich, and returns nothing
            if text:
                typer.echo(text)
        raise typer.Exit(2)
