"""``forget inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

import forgetcli
from forgetcli.cli.completion import suggest
from forgetcli.cli.edit_tables import estimates
from forgetcli.cli.options import (
    ConfigOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonFlag,
    QuietFlag,
    known_model,
)
from forgetcli.cli.progress import silence_hub, silence_libraries
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import facts, size, table
from forgetcli.cli.visible import one_line

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        callback=known_model,
        autocompletion=suggest("models"),
        help="demo, a diffusers folder, a .safetensors file, or a hub id.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        show_default=False,
        help="Also estimate what an edit by this recipe needs.",
    ),
]


def inspect(
    model: Model = "demo",
    recipe: Recipe = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show what MODEL is: its components, the layers that can be edited, and whether it was edited.

    Reads headers, no weights. With --recipe it estimates time, memory and disk of an edit from a
    short measurement here.

    \b
    Examples:
      forget inspect demo
      forget inspect edited --json
      forget inspect path/to/sd-folder --recipe art_styles
    """
    silence_hub()
    # Imported here: loads the hub client and pydantic.
    from forgetcli.checkpoint import base as checkpoint

    sink = Sink("inspect", json=json, quiet=quiet)
    base = checkpoint.resolve(model, config=config)
    data = forgetcli.inspect(base).as_dict()
    if recipe is not None:
        silence_libraries()
        # Imported here: loads torch.
        from forgetcli.pipeline.plan import plan as make_plan

        plan = make_plan(recipe, model=model, config=config, device=device, dtype=dtype.value)
        data |= {"recipe": recipe, "estimates": plan.as_dict()["estimates"]}
    sink.result(data, human=lambda: _as_text(data), quiet=base.place)
    if recipe is not None:
        sink.next("inspect --recipe", recipe=recipe, model=model)
    elif data["edited"] is not None:
        sink.next("inspect of an edited model", model=model)
    elif data["family"]:
        sink.next("inspect", model=model)


def _as_text(data: dict) -> list:
    components = table(
        ("component", "class", ">parameters", ">size", "stored as"),
        (
            [
                c["name"],
                c["class_name"],
                _count(c["parameters"]),
                size(c["bytes"]),
                ", ".join((*c["dtypes"], *c["variants"])),
            ]
            for c in data["components"]
        ),
    )
    text = [s for s in data["sites"] if s["block"] is not None]
    rows = [
        [s["block"], f"{s['component']}/{s['name']}", "×".join(map(str, s["shape"])), s["dtype"]]
        for s in text
    ]
    others = len(data["sites"]) - len(text)
    head = {
        "model": data["model"]["id"],
        "revision": data["model"]["revision"],
        "family": data["family"] or "none that forget can edit",
        "pipeline": data["pipeline"],
    }
    return [
        facts(head),
        components,
        table((">block", "site", ">shape", "stored as"), rows),
        *(
            [f"and {others} layers that read the context in the denoiser (--json lists them)"]
            if others
            else []
        ),
        _edit_state(data["edited"]),
        *([estimates(data["estimates"])] if "estimates" in data else []),
    ]


def _count(parameters: int | None) -> str:
    return "–" if parameters is None else f"{parameters:,}"


def _edit_state(edited: dict | None) -> str:
    if edited is None:
        return "not edited by forget"
    if "problem" in edited:
        return f"edited by forget, but {one_line(edited['problem'])}"
    pairs = ", ".join(
        f"{concept} → {target or '(nothing)'}" for concept, target in edited["concepts"]
    )
    return facts(
        {
            "edited by forget": {
                **edited,
                "concepts": one_line(pairs),
                "tensors": len(edited["tensors"]),
            }
        }
    )
