"""The report as one self-contained HTML page.

Prompts are untrusted text, so all text is escaped. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli import __version__
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import REPORT
from forgetcli.display import data_url
from forgetcli.errors import ForgetError
from forgetcli.report import attack_table, gallery, plot
from forgetcli.report.methods import LEGEND, cells, columns, shares
from forgetcli.report.verdict import BAD, FEW, GOOD, best, findings, mark, sentence, share
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation, Run

# Characters that HTML cannot contain, and characters that reorder the text around them.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def write_page(
    path: Path,
    evaluation: Evaluation,
    data: Mapping,
    *,
    title: str,
    description: str = "",
    command: str,
    methods: Sequence[Mapping] = (),
) -> None:
    """Write the report of an evaluation: verdict, scores of all models, image pairs by concept,
    method and identity.

    Args:
        data: ``evaluation.as_dict()``.
        command: the command that repeats the evaluation.
        methods: the rows of a comparison, which replace the table of scores.
    """
    described = best(data["models"])
    described_run = evaluation.edited[data["models"].index(described)]
    page = render(
        "page.html.j2",
        title=title,
        description=description,
        command=command,
        data=data,
        judge=data["judge"],
        verdict=sentence(data["models"]),
        findings=findings(described),
        first_pairs=gallery.first_pairs(evaluation.baseline, described_run),
        methods=methods,
        plotted=data,
        measures=shares([data["baseline"], *(model["edited"] for model in data["models"])]),
        matrix=_matrix(data["matrix"]),
        models=[
            {
                **model,
                "groups": gallery.groups(evaluation.baseline, run),
                "sites": sites(run),
                "method": method(run),
            }
            for model, run in zip(data["models"], evaluation.edited)
        ],
    )
    atomic.write_atomically(path, page.encode())


def render(template: str, *, plotted: Mapping | None, judge: Mapping, **values: Any) -> str:
    """A page from a template in this folder.

    Args:
        plotted: the scores for the forget–retain plot; None: no plot.
        judge: the judge's identity.
    """
    details = {key: value for key, value in judge.items() if key not in ("confusions", "accuracy")}
    page = (
        _templates()
        .get_template(template)
        .render(
            **values,
            judge=judge,
            legend=LEGEND,
            columns=columns,
            cells=cells,
            attacks=attack_table,
            plot=data_url(plot.forget_retain(plotted), "svg+xml") if plotted else None,
            judge_details=json.dumps(details, indent=1),
            version=__version__,
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )
    )
    return CONTROLS.sub("\ufffd", page)


@cache
def _templates() -> Any:
    """The templates in this folder, each compiled once."""
    # Imported here, because only commands that write a page need jinja2.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "share": share,
        "interval": _interval,
        "figure": _figure,
        "mark": mark,
        "limits": {"good": GOOD, "bad": BAD, "few": FEW},
    }
    return environment


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}"


def _figure(value: object, template: str) -> str:
    return template % value if isinstance(value, int | float) else "–"


def _matrix(matrix: Mapping) -> list[dict[str, Any]]:
    """A row for each concept with a cell for each model.

    A cell has the share of images in which the concept is seen, and whether the model was edited to
    forget it.
    """
    return [
        {
            "concept": concept,
            "cells": [
                {"seen": row[column], "forget": concept in forgets}
                for row, forgets in zip(matrix["seen"], matrix["forgets"])
            ],
        }
        for column, concept in enumerate(matrix["concepts"])
    ]


def method(run: Run) -> str | None:
    """The method of an edit; None if the folder's manifest cannot be read."""
    try:
        return EditedModel(run.subject.base.folder).manifest.method
    except ForgetError:
        return None


def sites(run: Run) -> list[dict]:
    """The figures of each edited site, from the report in the edited folder."""
    try:
        return json.loads((run.subject.base.folder / REPORT).read_text(encoding="utf-8"))["sites"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # there is no report, or it has another form
