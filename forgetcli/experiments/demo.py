"""``forget demo``: the whole job on the embedded model, from recipe to report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli import report
from forgetcli.evaluation import Evaluation, evaluate
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.report.pairs import Pair, write_sheet

SHOWN = 2  # pairs of a concept on the sheet, of each kind


@dataclass(frozen=True)
class Story:
    """Where everything lies, and how it came out."""

    report: Path
    grid: Path
    edited: Path
    evaluation: Evaluation
    seconds: Mapping[str, float]

    def as_dict(self) -> dict:
        return {
            "report": str(self.report),
            "grid": str(self.grid),
            "output": str(self.edited),
            "evaluation": self.evaluation.as_dict(),
            "seconds": dict(self.seconds),
        }


def run(
    output: Path | str = "demo",
    *,
    recipe: str = "art_styles",
    device: str | None = None,
    observer: Observer | None = None,
) -> Story:
    """Apply a recipe, draw and judge before and after, write `report.html` and `before_after.png`
    into `output`.
    """
    observer, watch, output = observer or Silent(), Stopwatch(), Path(output)
    loaded = recipes.load(recipe)
    with watch.stage("apply"):
        applied = apply(
            loaded, output=output / "edited", device=device, force=True, observer=observer
        )
    with watch.stage("evaluate"):
        evaluation = evaluate(
            applied.output,
            recipe=loaded,
            output=output / "pictures",
            device=device,
            force=True,
            observer=observer,
        )
    with watch.stage("report"):
        files = report.write(
            output,
            evaluation,
            evaluation.as_dict(),
            title=loaded.name,
            description=loaded.description,
            command=f"forget demo --recipe {recipe}",
        )
        grid = output / "before_after.png"
        write_sheet(shown(evaluation), grid)
    observer.done()
    return Story(files.page, grid, applied.output, evaluation, watch.report())


def shown(evaluation: Evaluation) -> list[Pair]:
    """A few pairs of every edited concept, direct and indirect, and one of every concept that must
    stay.
    """
    (edited,), pairs, count = evaluation.edited, [], {}
    for before, after in zip(evaluation.baseline.answers, edited.answers):
        q, forgotten = after.question, after.question.label in edited.subject.forgets
        kind = (q.concept, q.kind)
        count[kind] = count.get(kind, 0) + 1
        if count[kind] <= (SHOWN if forgotten else int(q.direct)):
            pairs.append(Pair(q.prompt, before.path, after.path, forgotten))
    return pairs
