"""Flags that several commands share."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli.completion import suggest
from forgetcli.storage.files import refuse_missing_folder


class Dtype(StrEnum):
    """Dtypes that the model can run in; the edit itself is always solved in float64."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    mixed = "mixed"


class Offloading(StrEnum):
    """Whether networks leave a GPU when they are not in use."""

    auto = "auto"
    model = "model"
    none = "none"


def finite(value: float | None) -> float | None:
    """The value of an option that is a number; ``nan`` and ``inf`` are none."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def known_model(name: str | None) -> str | None:
    """The value of ``--model``. A name that can be no model is refused before libraries load."""
    if name is not None:
        # Imported here: help, completion and the check of a recipe need no models.
        from forgetcli.checkpoint import base as checkpoint

        checkpoint.refuse_unknown(name)
    return name


def existing_folder(folder: Path) -> Path:
    """The value of DIR, an edited model. A missing folder is refused before libraries load."""
    refuse_missing_folder(folder, "give the folder that 'forget apply' wrote")
    return folder


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietFlag = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print only the path; no progress."),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or a bundled recipe's name.",
        autocompletion=suggest("recipes"),
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        envvar="FORGET_SET",
        autocompletion=suggest("recipe_keys"),
        show_default=False,
        help="Override a key of the recipe: refine.steps=6, concepts.0.target=monet. Repeatable.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        autocompletion=suggest("methods"),
        show_default="the recipe's",
        help="Another method, with the parameters in the recipe's [methods.NAME].",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        callback=known_model,
        autocompletion=suggest("models"),
        show_default=False,
        help="demo, a diffusers folder, a .safetensors file, or a hub id.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="DIR",
        show_default="config/ beside it, or fetched",
        help="For a .safetensors file: the diffusers folder, or hub id, with its configs and "
        "tokenizer.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        show_default="detected",
        help="cuda, cuda:1, mps or cpu.",
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Dtype that the model runs in. auto: float32, but on CUDA large models generate "
        "images in the half precision that they are published for, and Flux and Stable Diffusion "
        "3 are edited in mixed: float32 for the text encoders, else bfloat16.",
    ),
]
OffloadOption = Annotated[
    Offloading,
    typer.Option(
        "--offload",
        help="On CUDA: keep networks that are not in use on the CPU. auto: if they do not fit on "
        "the GPU together.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        show_default="OMP_NUM_THREADS, else one a core",
        help="CPU threads to compute with.",
    ),
]
StepsOption = Annotated[
    int,
    typer.Option("--steps", min=1, help="Sampler steps for each image."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="First seed.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images generated at a time.")]
DryRunFlag = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be done; write nothing."),
]
ForceFlag = Annotated[bool, typer.Option("--force", "-f", help="Replace an earlier output.")]
