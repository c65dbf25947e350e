"""One self-contained HTML page. Prompts are untrusted text: everything is escaped, and nothing is loaded from elsewhere."""
from __future__ import annotations

import base64
from pathlib import Path

from forgetcli import store

MEASURES = {"forget": "forget", "direct": "forget_direct", "indirect": "forget_indirect", "retain": "retain", "H": "h"}


def write_page(path: Path, *, title: str, description: str, evaluation, applied, command: str) -> None:
    """The report of one edit: scores beside the unedited model's, every pair of pictures, identities."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data = evaluation.as_dict()
    pairs = [_pair(before, after) for before, after in zip(evaluation.baseline, evaluation.edited)]
    page = environment.get_template("page.html.j2").render(
        title=title, description=description, measures=MEASURES, scores={"unedited": data["baseline"], "edited": data["edited"]},
        judge=data["judge"], n_images=data["n_images"], edited=[p for p in pairs if p["edited"]], kept=[p for p in pairs if not p["edited"]],
        base=applied.base, recipe_sha256=applied.recipe_sha256, method=applied.method, sites=applied.sites, command=command,
        share=lambda x: "–" if x is None else f"{100 * x:.0f} %", interval=lambda ci: f"{100 * ci[0]:.0f}–{100 * ci[1]:.0f}")
    store.write_atomically(path, page.encode())


def _pair(before, after) -> dict:
    q = after.question
    return {"prompt": q.prompt, "concept": q.concept, "edited": q.edited, "good": after.good, "judged_before": before.judged,
            "judged_after": after.judged, "before": _data_url(before.path), "after": _data_url(after.path)}


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
