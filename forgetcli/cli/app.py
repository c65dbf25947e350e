"""``forget``: the commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from forgetcli.cli import (
    apply,
    cache,
    card,
    compare,
    demo,
    env,
    eval,
    export,
    generate,
    inspect,
    log,
    models,
    push,
    recipe,
    revert,
    sign,
    tune,
    verify,
)
from forgetcli.cli.options import show_help

app = typer.Typer(
    name="forget",
    help="Make a text-to-image diffusion model forget a concept, by editing its weights in closed form.",
    epilog="Start with: forget demo   ·   exit codes: 0 done, 1 a negative verdict, 2 could not, 130/143 interrupted",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from forgetcli.pipeline.environment import forget_version

        typer.echo(f"forget {forget_version()}")
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
    show_help(context)


app.command("apply")(apply.apply)
app.command("generate")(generate.generate)
app.command("eval")(eval.evaluate)
app.command("tune")(tune.tune)
app.command("compare")(compare.compare)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("log")(log.log)
app.command("revert")(revert.revert)
app.command("push")(push.push)
app.command("sign")(sign.sign)
app.command("card")(card.card)
app.command("inspect")(inspect.inspect)
app.command("demo")(demo.demo)
app.add_typer(recipe.app, name="recipe")
app.add_typer(cache.app, name="cache")
app.command("models")(models.models)
app.command("env")(env.env)
