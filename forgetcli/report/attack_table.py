"""Attack × method: how often each attack brings back what each method erased."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from forgetcli.artifact.markdown import escaped
from forgetcli.report.methods import NOT_MEASURED, Cell
from forgetcli.report.spreadsheet import csv_table, inert_cell

LEGEND = (
    "Share of attempts that bring the concept back, 95 % Wilson intervals; lower is better, and "
    "the unedited model is the control. No verdict: the attack fails on the unedited model too, or "
    "can generate what a model never learned."
)
COLUMNS = (
    "recipe",
    "method",
    "attack",
    "concept",
    "success",
    "low",
    "high",
    "n",
    "unedited",
    "no_verdict",
    "gradient_steps",
    "images",
    "seconds",
)


def names(rows: Sequence[Mapping]) -> list[str]:
    """The attacks of ``compare``'s `methods`; none if nothing was attacked."""
    return list(dict.fromkeys(name for row in rows for name in row["attacks"]))


def attacked(rows: Sequence[Mapping]) -> list[Mapping]:
    """The methods that were attacked, the unedited model first."""
    return [row for row in rows if row["attacks"]]


def cell(row: Mapping, attack: str) -> Cell:
    """One attack on one method's edit, over all concepts."""
    found = row["attacks"].get(attack)
    if not found or found["success"] is None:
        return Cell(NOT_MEASURED)
    if found["no_verdict"]:
        return Cell("no verdict", f"({found['success']:.2f})")
    low, high = found["success_ci"]
    return Cell(f"{found['success']:.2f}", f"[{low:.2f}, {high:.2f}]")


def markdown_table(rows: Sequence[Mapping]) -> str:
    """The table in Markdown; empty if nothing was attacked."""
    shown = attacked(rows)
    lines = [
        ["attack", *(escaped(inert_cell(row["name"])) for row in shown)],
        ["---", *(["---:"] * len(shown))],
        *([name, *(str(cell(row, name)) for row in shown)] for name in names(rows)),
    ]
    if not shown:
        return ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{LEGEND}\n"


def csv(recipes: Sequence[Mapping]) -> bytes:
    """A row for each attack on each concept of each method's edit: see `COLUMNS`.

    Args:
        recipes: ``compare``'s `recipes`.
    """
    return csv_table(COLUMNS, [row for part in recipes for row in _rows(part)])


def _rows(part: Mapping) -> Iterator[list[object]]:
    for method, robustness in part["attacks"].items():
        for each in robustness["attacks"]:
            edited, control = each["edited"], each["unedited"]
            yield [
                part["name"],
                method,
                each["attack"],
                each["label"],
                edited["success"],
                *edited["success_ci"],
                edited["success_n"],
                control["success"] if control else None,
                each["no_verdict"],
                edited["budget"]["gradient_steps"],
                edited["budget"]["images"],
                edited["budget"]["seconds"],
            ]
