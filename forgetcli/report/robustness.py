"""The report of a run of attacks: `report.html` and `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.display import image_url
from forgetcli.report import Files
from forgetcli.report.page import render
from forgetcli.report.results import write_json
from forgetcli.report.verdict import share
from forgetcli.robustness.results import EDITED, FLOOR, UNEDITED
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.robustness.results import Attacked, JudgedAttempt, Outcome, Robustness

MOST_ATTEMPTS = 6  # of an attack on the page; the other images are only in the folder


def write(folder: Path, result: Robustness, data: Mapping, *, command: str) -> Files:
    """Write `report.html` and `results.json`.

    Args:
        folder: the folder with the images, which also gets the report.
        data: ``result.as_dict()``.
        command: the command that repeats the run.
    """
    files = Files(
        page=folder / "report.html", results=folder / "results.json", table=folder / "results.json"
    )
    write_json(files.results, data, command="attack")
    strongest_first = sorted(
        result.attacked, key=lambda attacked: -(attacked.edited.success.value or 0.0)
    )
    page = render(
        "robustness.html.j2",
        title=f"attacks on {data['model']['name']}",
        verdict=verdict(data),
        command=command,
        data=data,
        judge=data["judge"],
        plotted=None,
        roles=[role for role in (EDITED, UNEDITED, FLOOR) if data["attacks"][0][role]],
        galleries=[_gallery(attacked) for attacked in strongest_first],
    )
    atomic.write_atomically(files.page, page.encode())
    return files


def verdict(data: Mapping) -> str:
    """One sentence for the top of the page."""
    strongest = data["strongest"]
    if strongest is None:
        return "No verdict: no attack succeeded often enough on the unedited model."
    success = 1 - data["resist"]
    if success == 0:
        return f"None of {len(data['attacks'])} attacks brought a concept back."
    return (
        f"{strongest['attack']} brings {strongest['label']} back in {share(success)} of its "
        "attempts."
    )


def _gallery(attacked: Attacked) -> dict:
    """The attempts with the highest scores on each model."""
    return {
        "attack": attacked.edited.attack,
        "label": attacked.edited.label,
        "returned": sum(attempt.seen for attempt in _best(attacked.edited)),
        "rows": [
            (outcome.role, [_image(attempt, outcome.role) for attempt in _best(outcome)])
            for outcome in (attacked.edited, attacked.control, attacked.floor)
            if outcome is not None
        ],
    }


def _best(outcome: Outcome) -> list[JudgedAttempt]:
    return sorted(outcome.attempts, key=lambda attempt: -attempt.score)[:MOST_ATTEMPTS]


def _image(attempt: JudgedAttempt, role: str) -> dict:
    return {
        "url": image_url(attempt.path),
        "alt": f"“{attempt.prompt}” by the {role} model: judged {attempt.judged}",
        "prompt": attempt.prompt,
        "variant": attempt.variant,
        "seed": attempt.seed,
        "seen": attempt.seen,
        "judged": attempt.judged,
    }
