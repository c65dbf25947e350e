"""``forget``: the commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from forgetcli import __version__
from forgetcli.cli.commands import Entry, LazyGroup, show_help

# Panels of the help page.
START = "Start here"
HAND_ON = "Hand on"
CHOOSE = "Choose and compare edits"
LOOK_UP = "Look things up"
# In the order in which help and completion list them. The five that most people need are first.
COMMANDS = {
    "erase": Entry(
        "erase:erase",
        "Make a model forget CONCEPT: draft a recipe, apply it, and show images before and after.",
        START,
    ),
    "generate": Entry(
        "generate:generate",
        "Generate images. Images that the same model and settings have already made are kept.",
        START,
    ),
    "eval": Entry(
        "eval:evaluate",
        "Measure what edited models have forgotten and what they have kept, beside the unedited "
        "model.",
        START,
    ),
    "attack": Entry(
        "attack:attack", "Try to bring back what an edited model was made to forget.", START
    ),
    "revert": Entry(
        "revert:revert",
        "Remove edits from DIR; the other edits stay. The base is not needed.",
        START,
    ),
    "export": Entry(
        "export:export", "Write an edited model in the format of another tool.", HAND_ON
    ),
    "push": Entry(
        "push:push",
        "Upload DIR to the model hub, if it verifies. Private, unless you say --public.",
        HAND_ON,
    ),
    "card": Entry(
        "card:card",
        "Write the model card of DIR (README.md) again, with the scores of an evaluation.",
        HAND_ON,
    ),
    "verify": Entry(
        "verify:verify",
        "Check that DIR is exactly what its manifest says, and that nothing else differs from the "
        "base model.",
        HAND_ON,
    ),
    "sign": Entry(
        "sign:sign",
        "Sign DIR with your own key, so that everybody who has the public key can check that it "
        "comes from you.",
        HAND_ON,
    ),
    "recipe": Entry("recipe:app", "Write, check and show recipes.", CHOOSE),
    "apply": Entry(
        "apply:apply", "Edit a model as RECIPE says, and write it with its provenance.", CHOOSE
    ),
    "compare": Entry(
        "compare:compare",
        "Edit by RECIPE with every method, and score all results beside the unedited model, at "
        "equal prompts and seeds.",
        CHOOSE,
    ),
    "tune": Entry(
        "tune:tune",
        "Search a method's parameters for the best H on RECIPE's evaluation prompts.",
        CHOOSE,
    ),
    "demo": Entry(
        "demo:demo",
        "Run the whole workflow on the embedded model, in a few minutes: edit, generate images "
        "before and after, score, report.",
        LOOK_UP,
    ),
    "inspect": Entry(
        "inspect:inspect",
        "Show what MODEL is: its components, the layers that can be edited, and whether it was "
        "edited.",
        LOOK_UP,
    ),
    "log": Entry(
        "log:log", "List the edits that were made to DIR, in order, with their concepts.", LOOK_UP
    ),
    "models": Entry(
        "models:models",
        "List the models that --model can name: the embedded one, and those edited in this folder.",
        LOOK_UP,
    ),
    "judges": Entry(
        "judges:judges",
        "List the judges that --judge can name, or what the judge NAME knows.",
        LOOK_UP,
    ),
    "env": Entry("env:env", "Print versions, devices and folders, for a bug report.", LOOK_UP),
    "cache": Entry(
        "cache:app",
        "Manage what is kept on disk for a second edit or evaluation of the same model.",
        LOOK_UP,
    ),
}


class _Commands(LazyGroup):
    entries = COMMANDS


app = typer.Typer(
    name="forget",
    cls=_Commands,
    help="Make a text-to-image diffusion model forget a concept, by editing its weights in closed "
    "form.",
    epilog="Start with: forget demo   ·   exit codes: 0 done, 1 a negative verdict, 2 could not, "
    "130/143 interrupted",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"forget {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def forget(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Make a text-to-image diffusion model forget a concept."""
    show_help(context)
