"""``forget recipe``. None of it needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetcli.cli import errors
from forgetcli.cli.apply import Method
from forgetcli.cli.options import ForceFlag, JsonFlag, QuietFlag, RecipeName, SetOption, show_help
from forgetcli.cli.sink import Sink

app = typer.Typer(help="Write, check and look at recipes.", invoke_without_command=True)
app.callback()(show_help)


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path(
        "recipe.toml"
    ),
    force: ForceFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a commented recipe to start from.

    \b
    Example:
      forget recipe init my.toml && forget recipe validate my.toml
    """
    from forgetcli.recipe import text as recipe_text

    sink = Sink("recipe init", json=json, quiet=quiet)
    recipe_text.write_starter(path, force=force)
    sink.result({"path": str(path)}, human=lambda: str(path), quiet=path)
    sink.remark(f"edit it, then: forget recipe validate {path}", title="next")


@app.command("validate")
def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Recipes to check.", show_default=False)
    ],
    set_: SetOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check recipes: every fault at once, each with its line. Exit code 2 if there is any.

    \b
    Examples:
      forget recipe validate my.toml
      forget recipe validate recipes/*.toml --json
    """
    from forgetcli import recipe as recipes
    from forgetcli.errors import RecipeError

    sink = Sink("recipe validate", json=json, quiet=quiet)
    checked, valid = [], []
    for file in files:
        try:
            loaded = recipes.load(file, set_ or ())
        except RecipeError as error:
            problems = errors.lines_of(error)
            checked.append(
                {
                    "path": file,
                    "ok": False,
                    "warnings": [],
                    "problems": [
                        {"code": p.code, "message": p.message, "hint": p.hint} for p in problems
                    ],
                }
            )
            for problem in problems:
                errors.print_line(problem)
            continue
        for warning in loaded.warnings:
            sink.remark(warning, title="warning")
        checked.append(
            {"path": file, "ok": True, "warnings": list(loaded.warnings), "problems": []}
        )
        valid.append(
            f"{file}: valid ({len(loaded.concepts)} concepts, {len(loaded.edit_pairs())} edit pairs, "
            f"{len(loaded.preserve_prompts())} prompts preserved)"
        )
    ok = len(valid) == len(checked)
    sink.result(
        {"ok": ok, "files": checked},
        human=lambda: list(valid),
        quiet=[entry["path"] for entry in checked if entry["ok"]],
    )
    raise typer.Exit(0 if ok else errors.COULD_NOT)


Family = Annotated[
    str | None,
    typer.Option(
        "--family",
        envvar="FORGET_FAMILY",
        show_default=False,
        help="As it is for models of this family (sd, sdxl, …): with what [families.NAME] says.",
    ),
]


@app.command("show")
def show(
    recipe: RecipeName,
    method: Method = None,
    family: Family = None,
    set_: SetOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Print a recipe with every default filled in, its methods' too, and the edit pairs that it
    makes.

    \b
    Examples:
      forget recipe show art_styles
      forget recipe show art_styles --method uce
      forget recipe show my.toml --family sdxl
      forget recipe show my.toml --set refine.steps=6 > full.toml
    """
    from forgetcli import models
    from forgetcli import recipe as recipes
    from forgetcli.errors import ForgetError
    from forgetcli.recipe import text as recipe_text
    from forgetcli.recipe.problems import did_you_mean

    sink = Sink("recipe show", json=json, quiet=quiet)
    loaded = recipes.load(recipe, set_ or (), method)
    if family is not None:
        if family not in models.family_names():
            hint = did_you_mean(family, models.family_names())
            raise ForgetError(
                "recipe.unknown-family", f"--family: there is no family '{family}'", hint
            )
        loaded = loaded.on(family).model_copy(update={"families": {}})
    for warning in loaded.warnings:
        sink.remark(warning, title="warning")
    data = {
        "path": str(loaded.source),
        "sha256": loaded.sha256,
        "recipe": recipe_text.effective(loaded),
        "edit_pairs": [list(pair) for pair in loaded.edit_pairs()],
        "preserve_prompts": loaded.preserve_prompts(),
        "overrides": list(loaded.overrides),
        "warnings": list(loaded.warnings),
    }
    sink.result(
        data, human=lambda: recipe_text.to_toml(loaded).rstrip("\n"), quiet=str(loaded.source)
    )


@app.command("schema")
def schema(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them. With -q, the
    path of a copy.

    \b
    Example:
      forget recipe schema > recipe.schema.json
    """
    from forgetcli.bundled import recipes as bundled
    from forgetcli.recipe import json_schema

    Sink("recipe schema", json=json, quiet=quiet).result(
        {"schema": json_schema.build()},
        human=lambda: json_schema.text().rstrip("\n"),
        quiet=bundled.folder() / bundled.SCHEMA,
    )


@app.command("ls")
def list_bundled(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the recipes that come with forget.

    \b
    Example:
      forget recipe ls
    """
    from forgetcli import recipe as recipes
    from forgetcli.cli.tables import table

    found = {name: recipes.load(path) for name, path in recipes.bundled().items()}
    data = {
        "recipes": [
            {
                "name": name,
                "path": str(r.source),
                "description": r.description,
                "method": r.method,
                "concepts": [c.concept for c in r.concepts],
            }
            for name, r in found.items()
        ]
    }
    Sink("recipe ls", json=json, quiet=quiet).result(
        data,
        human=lambda: table(
            ("name", ">concepts", "description"),
            ([n, len(r.concepts), r.description] for n, r in found.items()),
        ),
        quiet=[r.source for r in found.values()],
    )
