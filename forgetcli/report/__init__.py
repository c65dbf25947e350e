"""Reports for people and programs: a self-contained HTML page, image pairs, plots, JSON, CSV,
Markdown, JUnit XML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.report.page import write_page
from forgetcli.report.results import write_csv, write_json, write_junit

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation


__all__ = ["Files", "write", "write_junit"]


@dataclass(frozen=True)
class Files:
    """The paths of a report's files.

    Attributes:
        page: the HTML page.
        results: the results as JSON.
        table: a CSV file with a row for each image.
        markdown: the table of a comparison as Markdown; None for an evaluation.
    """

    page: Path
    results: Path
    table: Path
    markdown: Path | None = None


def write(
    folder: Path,
    evaluation: Evaluation,
    data: Mapping,
    *,
    title: str,
    description: str = "",
    command: str,
) -> Files:
    """Write `report.html`, `results.json` and `results.csv` of an evaluation.

    Args:
        folder: the folder with the images, which also gets the report.
        data: ``evaluation.as_dict()``.
        command: the command that repeats the evaluation.
    """
    files = Files(
        page=folder / "report.html",
        results=folder / "results.json",
        table=folder / "results.csv",
    )
    write_json(files.results, data)
    write_csv(files.table, evaluation, folder)
    write_page(files.page, evaluation, data, title=title, description=description, command=command)
    return files
