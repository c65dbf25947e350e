"""One self-contained HTML page. Prompts are untrusted text: everything is escaped, and nothing is
loaded from elsewhere.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from forgetcli.artifact.manifest import REPORT
from forgetcli.evaluation.scores import good
from forgetcli.report import plot
from forgetcli.report.methods import LEGEND, SHARES, cells, columns
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation, Run

PAIRS_PER_KIND = 8  # pairs of a concept and kind of prompt; the others are in the folder
# Characters that HTML cannot hold, and those that reorder the text around them.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
SIDE = 192  # pixels; larger images are shrunk to this on the page


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
    """The report of an evaluation: scores beside the unedited model's, image pairs, plot, matrix,
    identities.

    Args:
        data: ``evaluation.as_dict()``.
        command: the command that repeats the evaluation.
        methods: rows of a comparison, which replace the table of scores.
    """
    page = render(
        "page.html.j2",
        title=title,
        description=description,
        command=command,
        data=data,
        judge=data["judge"],
        methods=methods,
        rows=[("unedited", data["baseline"]), *((m["name"], m["edited"]) for m in data["models"])],
        plotted=data,
        matrix=data["matrix"],
        models=[
            {**model, "pairs": pairs(evaluation.baseline, run), "sites": sites(run)}
            for model, run in zip(data["models"], evaluation.edited)
        ],
    )
    atomic.write_atomically(path, page.encode())


def render(template: str, *, plotted: Mapping | None, judge: Mapping, **values: Any) -> str:
    """A page from a template in this folder.

    Args:
        plotted: what the forget–retain plot shows; None: no plot.
        judge: the judge's identity.
    """
    # Only commands that write a page need jinja2.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    details = {key: v for key, v in judge.items() if key not in ("confusions", "accuracy")}
    page = environment.get_template(template).render(
        **values,
        judge=judge,
        measures=SHARES,
        legend=LEGEND,
        columns=columns,
        cells=cells,
        plot=_data_url(plot.forget_retain(plotted), "svg+xml") if plotted else None,
        judge_details=json.dumps(details, indent=1),
        share=_share,
        interval=_interval,
        figure=_figure,
        shade=_shade,
    )
    return CONTROLS.sub("\ufffd", page)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}"


def _figure(value: object, form: str) -> str:
    return form % value if isinstance(value, int | float) else "–"


def _shade(share: float | None) -> str:
    """The colour of a cell of the matrix."""
    return f"rgba(11, 110, 79, {0.75 * (share or 0):.3f})"


def pairs(baseline: Run, edited: Run) -> dict[str, list[dict]]:
    """Images of the unedited and the edited model at the same seed, at most `PAIRS_PER_KIND` of a
    concept and kind of prompt.
    """
    groups: dict[str, list[dict]] = {"Forgotten": [], "Kept": []}
    count: dict[tuple[str, str], int] = {}
    for before, after in zip(baseline.answers, edited.answers):
        question = after.question
        kind = (question.label, question.kind)
        count[kind] = count.get(kind, 0) + 1
        if count[kind] > PAIRS_PER_KIND:
            continue
        group = "Forgotten" if question.label in edited.subject.forgets else "Kept"
        groups[group].append(
            {
                "prompt": question.prompt,
                "concept": question.concept,
                "kind": question.kind,
                "seed": after.seed,
                "good": good(after, edited.subject),
                "judged_before": before.judged,
                "judged_after": after.judged,
                "before": image_url(before.path),
                "after": image_url(after.path),
            }
        )
    return groups


def sites(run: Run) -> list[dict]:
    """What the edit did at each site, from the report in the edited folder."""
    try:
        return json.loads((run.subject.base.folder / REPORT).read_text(encoding="utf-8"))["sites"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # no report, or another method's


def image_url(path: Path) -> str:
    """An image as a data URL; a large image is shrunk to `SIDE`."""
    with Image.open(path) as image:
        if max(image.size) <= SIDE:
            return _data_url(path.read_bytes(), "png")
        shrunk = image.convert("RGB")
    shrunk.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    shrunk.save(buffer, "WEBP", quality=85)
    return _data_url(buffer.getvalue(), "webp")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
