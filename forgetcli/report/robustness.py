"""The files of a run of attacks: `report.html` and `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.report import Files
from forgetcli.report.data_urls import image_url
from forgetcli.report.page import render
from forgetcli.report.results import write_json
from forgetcli.report.verdict import share
from forgetcli.storage import atomic

if TYPE_CHECKING:
    from forgetcli.robustness.results import Attacked, JudgedAttempt, Outcome, Robustness

SHOWN = 6  # attempts of an attack on the page; the others are in the folder


def write(folder: Path, result: Robustness, data: Mapping, *, command: str) -> Files:
    """`report.html` and `results.json` of a run whose images lie in `folder`.

    Args:
        data: ``result.as_dict()``.
        command: the command that repeats the run.
    """
    files = Files(
        page=folder / "report.html", results=folder / "results.json", table=folder / "results.json"
    )
    write_json(files.results, data, command="attack")
    page = render(
        "robustness.html.j2",
        title=f"attacks on {data['model']['name']}",
        verdict=verdict(data),
        command=command,
        data=data,
        judge=data["judge"],
        plotted=None,
        roles=[r for r in ("edited", "unedited", "never-learned") if data["attacks"][0][r]],
        shown=[
            _shown(attacked)
            for attacked in sorted(
                result.attacked, key=lambda each: -(each.edited.success.value or 0.0)
            )
        ],
    )
    atomic.write_atomically(files.page, page.encode())
    return files


def verdict(data: Mapping) -> str:
    """One sentence for the top of the page."""
    strongest = data["strongest"]
    if strongest is None:
        return "No verdict: no attack succeeded on the unedited model often enough to say anything."
    success = 1 - data["resist"]
    if success == 0:
        return f"None of {len(data['attacks'])} attacks brought anything back."
    attack, label = strongest["attack"], strongest["label"]
    return f"{attack} brings {label} back in {share(success)} of its attempts."


def _shown(attacked: Attacked) -> dict:
    """Attempts on the edited model, the highest scores first, beside the other models'."""
    return {
        "attack": attacked.edited.attack,
        "label": attacked.edited.label,
        "returned": sum(attempt.seen for attempt in _first(attacked.edited)),
        "rows": [
            (outcome.role, [_image(attempt, outcome.role) for attempt in _first(outcome)])
            for outcome in (attacked.edited, attacked.control, attacked.floor)
            if outcome is not None
        ],
    }


def _first(outcome: Outcome) -> list[JudgedAttempt]:
    return sorted(outcome.attempts, key=lambda attempt: -attempt.score)[:SHOWN]


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
