"""The report is one self-contained file, and prompts in it are text, whatever they hold."""
from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from forgetcli.demo.story import shown
from forgetcli.evaluation import Answer, Evaluation, Question, scores
from forgetcli.report.page import write_page
from forgetcli.report.sheet import COLUMNS, SIDE, Pair, write_sheet

NASTY = "<script>alert(1)</script> & \"quotes\" <img src=http://example.com/x.png>"
JUDGE = {"name": "demo", "digest": "0" * 64, "accuracy": {"other_hands": {"thing": 0.5, "style": 0.5, "n": 10}}}


def answer(folder: Path, prompt: str, *, edited: bool, seen: bool, direct: bool = True, colour: str = "red") -> Answer:
    path = folder / f"{abs(hash((prompt, edited, seen, direct)))}.png"
    Image.new("RGB", (8, 8), colour).save(path)
    question = Question("van gogh" if edited else "monet", "van_gogh" if edited else "monet", prompt, direct, edited)
    return Answer(question, 0, path, seen, "van_gogh" if seen else "none of these", 0.5)


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    before = (answer(tmp_path, NASTY, edited=True, seen=True), answer(tmp_path, "kept", edited=False, seen=True))
    after = (answer(tmp_path, NASTY, edited=True, seen=False), answer(tmp_path, "kept", edited=False, seen=True))
    return Evaluation(JUDGE, 4, before, after, {"total": 1.0})


def page(evaluation: Evaluation, path: Path) -> str:
    site = dict(name="layers.1", null_dim=100, eig_below=1e-6, eig_above=1e-4, rcond=1e-3, delta_rel=0.1, preserve_drift=1e-4, heldout_drift=None)
    applied = SimpleNamespace(base={"id": "demo", "digest": "f" * 64}, recipe_sha256="a" * 64, method="nullspace", sites=[site])
    write_page(path, title=NASTY, description=NASTY, evaluation=evaluation, applied=applied, command="forget demo")
    return path.read_text()


def test_prompts_are_text_and_nothing_is_loaded_from_elsewhere(evaluation, tmp_path):
    html = page(evaluation, tmp_path / "report.html")
    assert "<script" not in html and "&lt;script&gt;" in html         # shown, not run
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'<img src="([^"]*)"', html))
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert not re.search(r'(?:href|src)="http', html)


def test_scores_count_what_is_gone_and_what_is_kept(evaluation):
    before, after = scores(evaluation.baseline), scores(evaluation.edited)
    assert (before["forget"], after["forget"]) == (0.0, 1.0)
    assert before["retain"] == after["retain"] == 1.0
    assert (before["h"], after["h"]) == (0.0, 1.0)
    assert after["forget_indirect"] is None and after["forget_indirect_n"] == 0


def test_the_sheet_has_every_pair(evaluation, tmp_path):
    pairs = shown(evaluation)
    assert [p.edited for p in pairs] == [True, False]
    write_sheet([Pair("p", p.before, p.after, p.edited) for p in pairs * 2], tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width >= COLUMNS * 2 * SIDE and sheet.height >= 2 * SIDE  # four pairs: two rows
    assert sheet.getpixel((20, 20)) == (255, 0, 0)
