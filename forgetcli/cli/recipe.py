"""``forget recipe``. No command here needs torch."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from forgetcli import recipe as recipes
from forgetcli.bundled import recipes as bundled
from forgetcli.bundled import word_lists
from forgetcli.cli import errors
from forgetcli.cli.commands import Command, Group, show_help
from forgetcli.cli.options import (
    ForceFlag,
    JsonFlag,
    MethodOption,
    QuietFlag,
    RecipeName,
    SetOption,
)
from forgetcli.cli.sink import Sink
from forgetcli.cli.tables import table
from forgetcli.errors import ForgetError, RecipeError, counted
from forgetcli.models import families
from forgetcli.recipe.problems import did_you_mean

app = typer.Typer(
    name="recipe",
    cls=Group,
    help="Write, check and show recipes.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.callback()(show_help)


@app.command("init", cls=Command)
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to write.")] = Path(
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
    sink = Sink("recipe init", json=json, quiet=quiet)
    _recipe_text().write_starter(path, force=force)
    sink.result({"path": str(path)}, human=lambda: str(path), quiet=path, verbatim=True)
    sink.next("recipe init", path=path)


@app.command("validate", cls=Command)
def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Recipes to check.", show_default=False)
    ],
    set_: SetOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check recipes and report every fault with its line. Exit code 2 if there is any.

    \b
    Examples:
      forget recipe validate my.toml
      forget recipe validate recipes/*.toml --json
    """
    sink = Sink("recipe validate", json=json, quiet=quiet)
    checked: list[dict[str, Any]] = []
    valid: list[str] = []
    for file in files:
        try:
            loaded = recipes.load(file, set_ or (), pipe=True)
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
        warnings = loaded.warnings_on(loaded.model)
        for warning in warnings:
            sink.remark(warning, title="warning")
        checked.append({"path": file, "ok": True, "warnings": list(warnings), "problems": []})
        valid.append(
            f"{file}: valid ({counted(len(loaded.concepts), 'concept')}, "
            f"{counted(len(loaded.edit_pairs()), 'edit pair')}, "
            f"{counted(len(loaded.preserve_prompts()), 'prompt')} preserved)"
        )
    ok = len(valid) == len(checked)
    sink.result(
        {"ok": ok, "files": checked},
        human=lambda: list(valid),
        quiet=[entry["path"] for entry in checked if entry["ok"]],
    )
    if not ok:
        raise typer.Exit(errors.COULD_NOT)
    # A pipe cannot be read again, and what was overridden for this call is not in the recipe.
    if len(files) == 1 and not set_ and (files[0] in bundled.bundled() or Path(files[0]).is_file()):
        sink.next("recipe validate", recipe=files[0])


Family = Annotated[
    str | None,
    typer.Option(
        "--family",
        show_default=False,
        help="Print the recipe for models of this family (sd, sdxl, …): with [families.NAME].",
    ),
]


@app.command("show", cls=Command)
def show(
    recipe: RecipeName,
    method: MethodOption = None,
    family: Family = None,
    set_: SetOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Print a recipe with every default filled in, including those of its methods, and its edit
    pairs.

    \b
    Examples:
      forget recipe show art_styles
      forget recipe show art_styles --method uce
      forget recipe show my.toml --family sdxl
      forget recipe show my.toml --set refine.steps=6 > full.toml
    """
    recipe_text = _recipe_text()
    sink = Sink("recipe show", json=json, quiet=quiet)
    loaded = recipes.load(recipe, set_ or (), method, pipe=True)
    if family is not None:
        if family not in families.names():
            hint = did_you_mean(family, families.names())
            raise ForgetError(
                "recipe.unknown-family", f"--family: there is no family '{family}'", hint
            )
        loaded = loaded.on(family).model_copy(update={"families": {}})
    warnings = loaded.warnings_on(loaded.model)
    for warning in warnings:
        sink.remark(warning, title="warning")
    data = {
        "path": str(loaded.source or recipe),
        "sha256": loaded.sha256,
        "recipe": recipe_text.effective(loaded),
        "edit_pairs": [list(pair) for pair in loaded.edit_pairs()],
        "preserve_prompts": loaded.preserve_prompts(),
        "overrides": list(loaded.overrides),
        "warnings": list(warnings),
    }
    sink.result(
        data,
        human=lambda: recipe_text.to_toml(loaded).rstrip("\n"),
        verbatim=True,
        quiet=str(loaded.source or recipe),
    )
    # What was changed for this call is not in the recipe.
    if loaded.source and not (set_ or method or family):
        sink.next("recipe show", recipe=recipe)


@app.command("schema", cls=Command)
def schema(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Print the JSON Schema of recipes, which editors use to complete and check them. With -q, the
    path of a copy.

    \b
    Example:
      forget recipe schema > recipe.schema.json
    """
    Sink("recipe schema", json=json, quiet=quiet).result(
        {"schema": recipes.schema()},
        human=lambda: recipes.schema_text().rstrip("\n"),
        verbatim=True,
        quiet=bundled.folder() / bundled.SCHEMA,
    )


@app.command("sets", cls=Command)
def list_sets(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the preserve sets that come with forget, which [preserve] sets names.

    \b
    Example:
      forget recipe sets
    """
    found = [word_lists.preserve_set(name) for name in word_lists.SETS]
    rows = [
        {
            "name": each.name,
            "prompts": len(each.prompts),
            "sha256": each.sha256,
            "licences": list(each.licences),
            "description": each.description,
            "path": str(word_lists.FOLDER / f"{each.name}.txt"),
        }
        for each in found
    ]
    Sink("recipe sets", json=json, quiet=quiet).result(
        {"sets": rows},
        human=lambda: table(
            ("name", ">prompts", "sha256", "licences", "description"),
            (
                [s.name, len(s.prompts), s.sha256[:12], ", ".join(s.licences), s.description]
                for s in found
            ),
        ),
        quiet=[str(row["path"]) for row in rows],
    )


@app.command("ls", cls=Command)
def list_bundled(json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the recipes that come with forget.

    \b
    Example:
      forget recipe ls
    """
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
    sink = Sink("recipe ls", json=json, quiet=quiet)
    sink.result(
        data,
        human=lambda: table(
            ("name", ">concepts", "description"),
            ([n, len(r.concepts), r.description] for n, r in found.items()),
        ),
        quiet=[str(r.source) for r in found.values()],
    )
    sink.next("recipe ls", recipe=next(iter(found)))


def _recipe_text() -> ModuleType:
    # Imported here: `validate` writes nothing.
    from forgetcli.recipe import text

    return text
