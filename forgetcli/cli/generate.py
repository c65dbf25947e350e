"""``forget generate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import forgetcli
from forgetcli.cli.completion import suggest
from forgetcli.cli.options import (
    ConfigOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonFlag,
    Offloading,
    OffloadOption,
    QuietFlag,
    SeedOption,
    StepsOption,
    ThreadsOption,
    finite,
    known_model,
)
from forgetcli.cli.sink import Sink
from forgetcli.errors import ForgetError, counted
from forgetcli.recipe import prompt_files
from forgetcli.storage.atomic import MARKER


def multiple_of_8(value: int | None) -> int | None:
    """The value of an image's side: models generate latents, 8 pixels each."""
    if value is not None and value % 8:
        raise typer.BadParameter(f"{value} is not a multiple of 8.")
    return value


Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT…", help="Prompts to generate images for.", show_default=False),
]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        "-p",
        metavar="FILE",
        envvar="FORGET_PROMPTS",
        show_default=False,
        help="A text file of prompts, one a line, # comments; - for stdin.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        callback=known_model,
        autocompletion=suggest("models"),
        help="demo, an edited folder, a diffusers folder, a .safetensors file or a hub id.",
    ),
]
Count = Annotated[
    int,
    typer.Option("--count", "-n", min=1, help="Images for each prompt."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        callback=finite,
        min=0.0,
        show_default="by model",
        help="Classifier-free guidance.",
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", envvar="FORGET_GENERATE_OUTPUT", help="Folder for the images."),
]
Grid = Annotated[
    bool,
    typer.Option("--grid", help="Also write grid.png, a row for each prompt."),
]
CompareBase = Annotated[
    bool,
    typer.Option(
        "--compare-base",
        help="Also generate with the base model, at the same seeds.",
    ),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--width", min=8, callback=multiple_of_8, show_default="by model", help="In pixels."
    ),
]
Height = Annotated[
    int | None,
    typer.Option(
        "--height", min=8, callback=multiple_of_8, show_default="by model", help="In pixels."
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt", show_default=False, help="What guidance leads the images away from."
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images generated at a time.")]


def generate(
    prompts: Prompts = None,
    prompts_file: PromptsFile = None,
    model: Model = "demo",
    config: ConfigOption = None,
    count: Count = 1,
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    guidance: Guidance = None,
    width: Width = None,
    height: Height = None,
    negative_prompt: NegativePrompt = None,
    output: Output = Path("images"),
    grid: Grid = False,
    compare_base: CompareBase = False,
    batch: Batch = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    offload: OffloadOption = Offloading.auto,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate images. Images that the same model and settings have already made are kept.

    \b
    Examples:
      forget generate "starry night" "a cat" --model edited --compare-base
      forget generate "a dog" -n 4 --seed 7 --grid -o dogs
      forget generate --prompts prompts.txt
      echo "a monet painting of a cat" | forget generate -p - --json
    """
    sink = Sink("generate", json=json, quiet=quiet, threads=threads)
    requested = [*(prompts or ()), *_read(prompts_file)]
    if not requested:
        raise ForgetError(
            "usage",
            "there is no prompt: nothing to generate",
            "give a prompt, or a file of them with --prompts",
        )
    with sink.observer() as observer:
        # Loads torch, after the libraries have been silenced.
        result = forgetcli.generate(
            requested,
            model=model,
            config=config,
            count=count,
            seed=seed,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
            negative_prompt=negative_prompt,
            dtype=dtype.value,
            offload=offload.value,
            output=output,
            grid=grid,
            compare_base=compare_base,
            device=device,
            batch=batch,
            observer=observer,
        )
    if result.reused:
        sink.remark(f"{counted(result.reused, 'image')} kept from an earlier run")
    shown = [str(path) for path in ([result.grid] if result.grid else [])] + [
        str(image.path) for image in result.images
    ]
    sink.result(
        result.as_dict(),
        human=lambda: "\n".join(shown),
        verbatim=True,
        quiet=result.grid or [image.path for image in result.images],
    )
    if model != "demo" and (Path(model) / MARKER).is_file():
        sink.next("generate", model=model)


def _read(file: str | None) -> list[str]:
    if file is None:
        return []
    found = (
        prompt_files.read_stream(sys.stdin.buffer)
        if file == "-"
        else prompt_files.read(Path(file), pipe=True)
    )
    return [prompt for _, prompt in found]
