"""``forget erase``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgetcli.cli.edit_tables import outcome
from forgetcli.cli.options import (
    ConfigOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ForceFlag,
    JsonFlag,
    Offloading,
    OffloadOption,
    QuietFlag,
    SeedOption,
    ThreadsOption,
)
from forgetcli.cli.progress import opening
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts, table
from forgetcli.pipeline.drafting.options import Options
from forgetcli.progress import Observer, Stages
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

Concepts = Annotated[
    list[str],
    typer.Argument(metavar="CONCEPT…", help="What to forget, in words.", show_default=False),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="demo, a diffusers folder, a .safetensors file, or a hub id."
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", envvar="FORGET_ERASE_OUTPUT", help="Folder for the edited model."
    ),
]
Target = Annotated[
    str | None,
    typer.Option("--to", show_default="a neighbour", help="What the concept turns into."),
]
AttributeOf = Annotated[
    str | None,
    typer.Option(
        "--attribute-of",
        show_default="erase it everywhere",
        help="The only concept that loses CONCEPT, where a prompt names both.",
    ),
]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--kind", show_default="by the word lists", help="style, object, person or action."
    ),
]
Alias = Annotated[
    list[str] | None,
    typer.Option(
        "--alias",
        show_default="synonyms",
        help="Another word for the concept. Repeatable; '' for none.",
    ),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        show_default="by kind",
        help="An edit prompt with {} for the concept. Repeatable.",
    ),
]
Near = Annotated[
    list[str] | None,
    typer.Option(
        "--near",
        show_default="by the encoder",
        help="A near concept that must stay. Repeatable; '' for none.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--sets",
        show_default="all",
        help="A preserve set (forget recipe sets). Repeatable; '' for none.",
    ),
]
Robust = Annotated[
    bool,
    typer.Option(
        "--robust",
        help="Withstand learned words and the unedited text encoder too: edit the denoiser as "
        "well, and fine-tune it. Takes minutes.",
    ),
]
Method = Annotated[str, typer.Option("--method", help="The editing method.")]
Images = Annotated[
    int,
    typer.Option(
        "--images", min=0, help="Prompts for which images are generated, per concept. 0: none."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the recipe; edit and write nothing.")
]
Lenient = Annotated[
    bool,
    typer.Option("--lenient", help="Write the edit even if the check finds it too weak."),
]


def erase(
    concepts: Concepts,
    attribute_of: AttributeOf = None,
    to: Target = None,
    model: Model = "demo",
    output: Output = Path("edited"),
    kind: KindOption = None,
    alias: Alias = None,
    template: Template = None,
    near: Near = None,
    sets: Sets = None,
    robust: Robust = False,
    method: Method = "nullspace",
    images: Images = 4,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    offload: OffloadOption = Offloading.auto,
    threads: ThreadsOption = None,
    force: ForceFlag = False,
    lenient: Lenient = False,
    dry_run: DryRun = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a model forget CONCEPT: draft a recipe, apply it, and show images before and after.

    The recipe is recipe.toml in the output, to be changed and applied again.

    \b
    Examples:
      forget erase "van gogh"
      forget erase dog cat --model path/to/sd-folder -o edited-sd
      forget erase "van gogh" --to "oil painting" --alias "starry night" --force
      forget erase dog --robust -o no-dog
      forget erase hat --attribute-of cowboy --model path/to/sd-folder
      forget erase penguin --dry-run > penguin.toml
    """
    sink = Sink("erase", json=json, quiet=quiet, threads=threads)
    if not dry_run:
        atomic.refuse_existing(output, force=force)
    with sink.observer() as shown:
        # Imported here: load torch, after the libraries have been silenced.
        from forgetcli.experiments import erase as erasing
        from forgetcli.report.pairs import Pair, write_sheet

        observer: Observer = shown
        if not dry_run:
            observer = Stages(shown, erasing.STAGES, opening(erasing.STAGES, output))

        place: dict[str, Any] = {
            "model": model,
            "config": config,
            "device": device,
            "dtype": dtype.value,
            "observer": observer,
        }
        made = erasing.drafted(
            concepts, _options(to, kind, alias, template, near, sets, attribute_of, robust),
            method=method, seed=seed, **place,
        )  # fmt: skip
        if not dry_run:
            folder = output.with_name(f"{output.name}-images")
            result = erasing.run(
                made, output=output, images=folder, count=images, offload=offload.value,
                force=force, strict=not lenient,
                **place,
            )  # fmt: skip
            sheet = folder / "before_after.png" if result.images else None
            if sheet:
                pairs = [
                    Pair(i.prompt, i.base or i.path, i.path, result.is_erased(i.prompt))
                    for i in result.images
                ]
                write_sheet(pairs, sheet)
    if dry_run:
        text = made.recipe.raw.decode()
        sink.result(
            {**made.as_dict(), "recipe": text}, human=lambda: text.rstrip(), quiet="", verbatim=True
        )
        return
    recipe = output / "recipe.toml"
    data = {**result.as_dict(), "recipe": str(recipe), "sheet": str(sheet) if sheet else None}
    sink.result(data, human=lambda: _as_text(data), quiet=output)
    again = shlex.join(["forget", "apply", str(recipe), "-o", str(output), "--force"])
    sink.remark(
        f"look at {sheet or output}; to change a choice: edit {recipe}, then {again}", title="note"
    )
    sink.next("erase", output=output)


def _options(
    target: str | None,
    kind: str | None,
    aliases: list[str] | None,
    templates: list[str] | None,
    near: list[str] | None,
    sets: list[str] | None,
    attribute_of: str | None,
    robust: bool,
) -> Options:
    def given(values: list[str] | None) -> tuple[str, ...] | None:
        return tuple(value for value in values if value) if values else None

    chosen = given(sets)
    return Options(
        kind=kind,
        target=target,
        aliases=given(aliases),
        templates=given(templates),
        near=given(near),
        attribute_of=attribute_of,
        robust=robust,
        **({} if chosen is None else {"sets": chosen}),
    )


def _as_text(data: dict[str, Any]) -> list[str | RenderableType]:
    rows = [[c["concept"], c["key"], c["value"], c["why"], c["option"]] for c in data["choices"]]
    found = {key: data[key] for key in ("output", "recipe", "sheet") if data[key]}
    return [
        table(("concept", "chosen", "", "because", "otherwise"), rows),
        *filter(None, [outcome(data["check"] or {})]),
        facts({**found, "seconds": data["seconds"]["total"]}),
    ]
