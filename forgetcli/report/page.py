"""One self-contained HTML page. Prompts are untrusted text: everything is escaped, and nothing is
loaded from elsewhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.evaluation.scores import good
from forgetcli.report import plot
from forgetcli.report.methods import LEGEND, SHARES, cells, columns
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.evaluation import Evaluation, Run

SHOWN = 8  # pairs of a concept and kind of prompt; the rest are in the folder
SIDE = 192  # larger pictures are shrunk to this on the page


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
    """The report of an evaluation: scores beside the unedited model's, pairs of pictures, plot,
    matrix, identities.

    Args:
        data: ``evaluation.as_dict()``.
        command: what repeats it.
        methods: rows of a comparison, which stand for the scores then.
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


def render(template: str, **values) -> str:
    """A page of a template in this folder."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotted = values.pop("plotted")
    return environment.get_template(template).render(
        **values,
        measures=SHARES,
        legend=LEGEND,
        columns=columns,
        cells=cells,
        plot=_data_url(plot.forget_retain(plotted), "svg+xml") if plotted else None,
        judge_details=json.dumps(
            {k: v for k, v in values["judge"].items() if k not in ("confusions", "accuracy")},
            indent=1,
        ),
        share=lambda x: "–" if x is None else f"{100 * x:.0f} %",
        interval=lambda ci: f"{100 * ci[0]:.0f}–{100 * ci[1]:.0f}",
        figure=lambda x, form: form % x if isinstance(x, int | float) else "–",
        shade=lambda x: f"rgba(11, 110, 79, {0.75 * (x or 0):.3f})",
    )


def pairs(baseline: Run, edited: Run) -> dict[str, list[dict]]:
    """Before and after at the same seed, at most `SHOWN` of a concept and kind of prompt."""
    groups: dict[str, list[dict]] = {"Forgotten": [], "Kept": []}
    count: dict[tuple, int] = {}
    for before, after in zip(baseline.answers, edited.answers):
        q = after.question
        key = (q.label, q.kind)
        count[key] = count.get(key, 0) + 1
        if count[key] <= SHOWN:
            groups["Forgotten" if q.label in edited.subject.forgets else "Kept"].append(
                {
                    "prompt": q.prompt,
                    "concept": q.concept,
                    "kind": q.kind,
                    "seed": after.seed,
                    "good": good(after, edited.subject),
                    "judged_before": before.judged,
                    "judged_after": after.judged,
                    "before": _picture(before.path),
                    "after": _picture(after.path),
                }
            )
    return groups


def sites(run: Run) -> list[dict]:
    """What the edit did at each site, from the report in the edited folder."""
    from forgetcli.artifact.manifest import REPORT

    try:
        return json.loads((run.subject.base.folder / REPORT).read_text())["sites"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a report of another method, or of none


def _picture(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        if max(picture.size) <= SIDE:
            return _data_url(path.read_bytes(), "png")
        picture = picture.convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=85)
    return _data_url(buffer.getvalue(), "webp")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
