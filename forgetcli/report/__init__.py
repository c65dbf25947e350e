"""What people look at and programs read: before/after pictures, a self-contained HTML page, JSON,
CSV, JUnit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation


@dataclass(frozen=True)
class Files:
    """Where a report lies; `markdown`: of a comparison."""

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
    """`report.html`, `results.json` and `results.csv` of an evaluation whose pictures lie in
    `folder`.

    Args:
        data: ``evaluation.as_dict()``.
        command: what repeats it.
    """
    from forgetcli.report.page import write_page
    from forgetcli.report.results import write_csv, write_json

    files = Files(folder / "report.html", folder / "results.json", folder / "results.csv")
    write_json(files.results, data)
    write_csv(files.table, evaluation, folder)
    write_page(files.page, evaluation, data, title=title, description=description, command=command)
    return files
