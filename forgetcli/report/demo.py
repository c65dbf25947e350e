"""The files of ``forget demo``: the report of an evaluation, and a sheet of image pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli import report
from forgetcli.report.pairs import Pair, write_sheet

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation
    from forgetcli.experiments.demo import Demo

PAIRS_PER_KIND = 2  # pairs on the sheet for each edited concept and kind of prompt


@dataclass(frozen=True)
class DemoFiles:
    """The paths of a demo's files.

    Attributes:
        page: `report.html`. `results.json` and `results.csv` are beside it.
        sheet: `before_after.png`.
    """

    page: Path
    sheet: Path


def write(folder: Path, demo: Demo, *, command: str) -> DemoFiles:
    """Write `report.html`, `results.json`, `results.csv` and `before_after.png`.

    Args:
        command: the command that repeats the demo.
    """
    files = report.write(
        folder,
        demo.evaluation,
        demo.evaluation.as_dict(),
        title=demo.recipe.name,
        description=demo.recipe.description,
        command=command,
    )
    sheet = folder / "before_after.png"
    write_sheet(selected_pairs(demo.evaluation), sheet)
    return DemoFiles(page=files.page, sheet=sheet)


def selected_pairs(evaluation: Evaluation) -> list[Pair]:
    """The image pairs for the sheet: `PAIRS_PER_KIND` for each edited concept and kind of prompt,
    and one direct pair for each retained concept.
    """
    (edited,) = evaluation.edited
    pairs: list[Pair] = []
    count: dict[tuple[str, str], int] = {}
    for before, after in zip(evaluation.baseline.answers, edited.answers):
        question = after.question
        if question.axis:
            continue
        forgotten = question.label in edited.subject.forgets
        limit = PAIRS_PER_KIND if forgotten else int(question.direct)
        kind = (question.concept, question.kind)
        count[kind] = count.get(kind, 0) + 1
        if count[kind] <= limit:
            pairs.append(
                Pair(
                    prompt=question.prompt,
                    before=before.path,
                    after=after.path,
                    edited=forgotten,
                )
            )
    return pairs
