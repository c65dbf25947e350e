"""The files of a comparison.

For each recipe there is the report of ``forget eval``, with the table of methods at the top. For
several recipes there is an overview too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.artifact import markdown
from forgetcli.errors import counted
from forgetcli.report import Files, attack_table
from forgetcli.report.methods import LEGEND, POOLED, markdown_table
from forgetcli.report.page import render, write_page
from forgetcli.report.results import COLUMNS, image_rows, write_json
from forgetcli.report.spreadsheet import csv_table
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.experiments.comparison import ComparedRecipe, Comparison

MARKDOWN = "compare.md"
ATTACKS = "attacks.csv"


def write(folder: Path, comparison: Comparison, data: Mapping, *, command: str) -> Files:
    """Write `report.html`, `results.json`, `results.csv` (a row for each question about an image)
    and `compare.md`; with attacks `attacks.csv` too.

    With several recipes, each recipe also has these files in its own folder.

    Args:
        data: ``comparison.as_dict()``.
        command: the command that repeats the comparison.
    """
    several = len(comparison.recipes) > 1
    for compared, part in zip(comparison.recipes, data["recipes"]):
        if compared.evaluation is not None:
            write_page(
                compared.folder / "report.html",
                compared.evaluation,
                part["evaluation"],
                title=compared.name,
                description=compared.recipe.description,
                command=command,
                methods=part["methods"],
            )
        if several:
            shared = {key: data[key] for key in ("judge", "settings", "seconds")}
            text = _text(part["methods"], compared.name, data, command)
            _write_tables(compared.folder, [compared], {**part, **shared}, text)
    title = "all recipes" if several else comparison.recipes[0].name
    text = _text(data["methods"], title, data, command)
    if several:
        text = f"{text}\n{POOLED}\n\n" + "\n".join(
            f"## {markdown.heading(part['name'])}\n\n{markdown_table(part['methods'])}"
            f"{attack_table.markdown_table(part['methods'])}"
            for part in data["recipes"]
        )
        _write_overview(folder, comparison, data, command)
    return _write_tables(folder, comparison.recipes, data, text)


def _write_tables(
    folder: Path, recipes: Sequence[ComparedRecipe], data: Mapping, text: str
) -> Files:
    files = Files(
        page=folder / "report.html",
        results=folder / "results.json",
        table=folder / "results.csv",
        markdown=folder / MARKDOWN,
    )
    write_json(files.results, data, command="compare")
    rows = [
        [compared.name, *row]
        for compared in recipes
        if compared.evaluation is not None
        for row in image_rows(compared.evaluation, folder)
    ]
    atomic.write_atomically(files.table, csv_table(("recipe", *COLUMNS), rows))
    # A recipe's own file is one of several recipes' parts.
    attacked = [part for part in data.get("recipes", [data]) if part["attacks"]]
    if attacked:
        atomic.write_atomically(folder / ATTACKS, attack_table.csv(attacked))
    atomic.write_atomically(folder / MARKDOWN, text.encode(errors="backslashreplace"))
    return files


def _text(rows: list[Mapping], title: str, data: Mapping, command: str) -> str:
    settings = ", ".join(
        key if value is True else f"{key} {markdown.heading(value)}"
        for key, value in data["settings"].items()
        if value is not None and value is not False
    )
    return (
        f"# {markdown.heading(title)}: every method beside the unedited model\n\n"
        f"{markdown_table(rows)}\n{LEGEND}\n\n{_attack_text(rows)}"
        f"Judge {markdown.heading(data['judge'].get('name'))}; {settings}. "
        f"To repeat it: {markdown.code(command)}\n"
    )


def _attack_text(rows: Sequence[Mapping]) -> str:
    table = attack_table.markdown_table(rows)
    return f"{table}\n" if table else ""


def _write_overview(folder: Path, comparison: Comparison, data: Mapping, command: str) -> None:
    unedited, *edited = data["methods"]
    parts = [
        {
            "name": part["name"],
            "methods": part["methods"],
            "link": f"{compared.folder.name}/report.html" if compared.evaluation else None,
        }
        for compared, part in zip(comparison.recipes, data["recipes"])
    ]
    plotted = None
    if "forget" in unedited:
        models = [{"name": row["name"], "edited": row} for row in edited]
        plotted = {"baseline": unedited, "models": models}
    page = render(
        "overview.html.j2",
        title=", ".join(part["name"] for part in parts),
        methods=data["methods"],
        parts=parts,
        verdict=_verdict(edited),
        plotted=plotted,
        data=data,
        judge=data["judge"],
        command=command,
    )
    atomic.write_atomically(folder / "report.html", page.encode())


def _verdict(rows: Sequence[Mapping]) -> str:
    """A sentence on the method with the highest H over all recipes; empty if none was scored."""
    scored = [row for row in rows if row.get("h") is not None]
    if not scored:
        return ""
    best = max(row["h"] for row in scored)
    names = [row["name"] for row in scored if row["h"] == best]
    verb = "have" if len(names) > 1 else "has"
    return (
        f"Of {counted(len(rows), 'method')}, {' and '.join(names)} {verb} the highest H over all "
        f"recipes, {best:.3f}."
    )
