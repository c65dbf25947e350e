"""The report is one self-contained file, and prompts in it are text, whatever they hold."""
from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from forgetcli import report
from forgetcli.demo.story import shown
from forgetcli.evaluation import Answer, Evaluation, Question, Run, Subject
from forgetcli.report.sheet import COLUMNS, SIDE, Pair, write_sheet

NASTY = "<script>alert(1)</script> & \"quotes\" <img src=http://example.com/x.png>"
JUDGE = {"name": "demo", "digest": "0" * 64, "accuracy": {"other_hands": {"thing": 0.5, "style": 0.5, "n": 10}},
         "confusions": [{"shown": NASTY, "judged": "cat", "share": 0.25}]}


def run(folder: Path, name: str, forgets: frozenset[str], seen: bool) -> Run:
    """Two pictures: of what may be forgotten, and of what stays."""
    answers = []
    for k, (concept, prompt, there) in enumerate((("van gogh", NASTY, seen), ("monet", "kept", True))):
        path = folder / f"{name}-{k}.png"
        Image.new("RGB", (8, 8), "red").save(path)
        answers.append(Answer(Question(concept, concept, prompt), 0, path, there, concept if there else "none of these", 0.5))
    base = SimpleNamespace(id=NASTY, digest="f" * 64, folder=folder)
    return Run(Subject(name, base, forgets, recipe_sha256="a" * 64), tuple(answers))


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    return Evaluation(JUDGE, run(tmp_path, "unedited", frozenset(), True), (run(tmp_path, "$x^2$ <b>", frozenset({"van gogh"}), False),),
                      {"seed": 0, "guidance": None}, {"total": 1.0})


def page(evaluation: Evaluation, folder: Path) -> str:
    return report.write(folder, evaluation, evaluation.as_dict(), title=NASTY, description=NASTY, command=f"forget eval {NASTY}").page.read_text()


def test_prompts_are_text_and_nothing_is_loaded_from_elsewhere(evaluation, tmp_path):
    html = page(evaluation, tmp_path)
    assert "<script" not in html and "&lt;script&gt;" in html         # shown, not run
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'<img[^>]* src="([^"]*)"', html) if "svg" not in source)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert not re.search(r'(?:href|src)="http', html)


def test_the_report_shows_scores_matrix_and_judge(evaluation, tmp_path):
    html = page(evaluation, tmp_path)
    assert html.count("<figure>") == 2 and "100 %" in html and "95 % intervals" in html
    assert 'class="asked"' in html                                    # the cell of what was edited is marked
    assert "On drawings" not in html and "other hands" in html and "25 %" in html
    (tmp_path / "report.json").write_text("{broken")                  # an edited folder's own report: absent, damaged or another method's
    assert page(evaluation, tmp_path)


def test_the_sheet_has_every_pair(evaluation, tmp_path):
    pairs = shown(evaluation)
    assert [p.edited for p in pairs] == [True, False]
    write_sheet([Pair("p", p.before, p.after, p.edited) for p in pairs * 2], tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width >= COLUMNS * 2 * SIDE and sheet.height >= 2 * SIDE  # four pairs: two rows
    assert sheet.getpixel((20, 20)) == (255, 0, 0)
