"""Reports for people and programs: image pairs, a self-contained HTML page, plots, JSON, CSV,
Markdown, JUnit XML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.report.page import write_page
from forgetcli.report.results import write_csv, write_json

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation


@dataclass(frozen=True)
class Files:
    """Where the files of a report lie.

    Attributes:
        page: the HTML page.
        results: JSON.
        table: CSV with a row for each image.
        markdown: the table of a comparison; None for an evaluation.
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
    """`report.html`, `results.json` and `results.csv` of an evaluation whose images lie in
    `folder`.

    Args:
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
