"""The page of a run of attacks: what came back comes first and says so, and prompts stay text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import PHONE, layout, needs_chromium
from PIL import Image

from forgetcli.report import robustness
from forgetcli.robustness.results import (
    EDITED,
    UNEDITED,
    Attacked,
    JudgedAttempt,
    Outcome,
    Robustness,
)

NASTY = '<script>alert(1)</script> "quoted" \u202e'
BUDGET = {
    "gradient_steps": 0,
    "denoiser_calls": 1,
    "encoder_calls": 1,
    "images": 1,
    "seconds": 0.1,
}


def outcome(folder: Path, attack: str, role: str, seen: list[bool]) -> Outcome:
    path = folder / "0.png"
    Image.new("RGB", (2, 2)).save(path)
    attempts = tuple(
        JudgedAttempt(NASTY, "", k, path, back, "dog" if back else "cat", float(back))
        for k, back in enumerate(seen)
    )
    return Outcome(attack, "a dog", "dog", role, attempts, (True,) * len(seen), BUDGET)


@pytest.fixture
def html(tmp_path: Path) -> str:
    def attacked(attack: str, seen: list[bool]) -> Attacked:
        control = outcome(tmp_path, attack, UNEDITED, [True, True])
        return Attacked(outcome(tmp_path, attack, EDITED, seen), control)

    result = Robustness(
        tmp_path,
        model={"name": NASTY, "digest": "d"},
        base={"id": "demo", "digest": "b"},
        attacked=(attacked("weak", [False, False]), attacked("strong", [False, True])),
        judge={"name": "demo"},
        settings={"seed": 0},
        seconds={"total": 1.0},
    )
    return robustness.write(tmp_path, result, result.as_dict(), command=NASTY).page.read_text()


def test_the_strongest_attack_comes_first_and_what_came_back_before_the_rest(html: str):
    # The sentence has no line end between a number and its unit.
    said = "strong brings dog back in 50\u00a0% of its attempts"
    assert said in html and "~ resists 50 %" in html
    assert html.index("<h3>strong") < html.index("<h3>weak")
    assert html.index("✗ it is back, judged dog") < html.index("✓ not back, judged cat")
    assert "✓ 0 %" in html and "✗ brought back: 1" in html


def test_prompts_are_text_and_every_picture_says_what_it_is(html: str):
    assert "<script" not in html and "\u202e" not in html
    said = re.findall(r'<img[^>]* alt="([^"]*)"', html)
    assert len(said) == 8 and all("judged" in text for text in said)
    assert any("by the edited model: judged dog" in text for text in said)


@needs_chromium
def test_a_phone_shows_the_page_without_scrolling_sideways(html: str, tmp_path: Path):
    shown = layout(html, tmp_path / "phone")
    assert shown.window == shown.page == PHONE
    # The budget is in the part that scrolls; a reason for no verdict does not widen the table.
    (table, box), *_ = shown.tables
    assert box < table < 2.5 * box
