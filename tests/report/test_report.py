"""The report is one self-contained file, and prompts in it are text, whatever they hold."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import CHROMIUM, FLAGS, PHONE, layout, needs_chromium
from PIL import Image

import forgetcli
from forgetcli import report
from forgetcli.evaluation import Answer, Evaluation, Question, Run, Subject
from forgetcli.evaluation.measures import Measure, ModelQuality, Quality
from forgetcli.report.demo import selected_pairs
from forgetcli.report.gallery import groups
from forgetcli.report.pairs import (
    COLUMN_HEAD,
    COLUMNS,
    GAP,
    HEADING,
    SIDE,
    Pair,
    write_sheet,
)
from forgetcli.report.plot import sizes
from forgetcli.report.verdict import findings, sentence

NASTY = '<script>alert(1)</script> & "quotes" <img src=http://example.com/x.png>'
JUDGE = {
    "name": "demo",
    "digest": "0" * 64,
    "accuracy": {"other_hands": {"thing": 0.5, "style": 0.5, "n": 10}},
    "confusions": [{"shown": NASTY, "judged": "cat", "share": 0.25}],
}


def run(folder: Path, name: str, forgets: frozenset[str], seen: bool) -> Run:
    """Two pictures: of what may be forgotten, and of what stays."""
    answers = []
    for k, (concept, prompt, there) in enumerate(
        (("van gogh", NASTY, seen), ("monet", "kept", True))
    ):
        path = folder / f"{name}-{k}.png"
        Image.new("RGB", (8, 8), "red").save(path)
        answers.append(
            Answer(
                Question(concept, concept, prompt),
                0,
                path,
                there,
                concept if there else "none of these",
                0.5,
            )
        )
    base = SimpleNamespace(id=NASTY, digest="f" * 64, folder=folder)
    return Run(Subject(name, base, forgets, recipe_sha256="a" * 64), tuple(answers))


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    return Evaluation(
        JUDGE,
        run(tmp_path, "unedited", frozenset(), True),
        (run(tmp_path, "$x^2$ <b>", frozenset({"van gogh"}), False),),
        {"seed": 0, "guidance": None},
        {"total": 1.0},
    )


def page(evaluation: Evaluation, folder: Path) -> str:
    return report.write(
        folder,
        evaluation,
        evaluation.as_dict(),
        title=NASTY,
        description=NASTY,
        command=f"forget eval {NASTY}",
    ).page.read_text()


def test_prompts_are_text_and_nothing_is_loaded_from_elsewhere(evaluation, tmp_path):
    html = page(evaluation, tmp_path)
    assert "<script" not in html and "&lt;script&gt;" in html  # shown, not run
    assert all(
        source.startswith("data:image/png;base64,")
        for source in re.findall(r'<img[^>]* src="([^"]*)"', html)
        if "svg" not in source
    )
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert not re.search(r'(?:href|src)="http', html)


def test_the_report_shows_verdict_scores_matrix_and_judge(evaluation, tmp_path):
    html = page(evaluation, tmp_path)
    assert html.count("<figure>") == 2  # at the top: one to forget, one to keep
    assert html.count("<figure class=") == 2 and "95 % intervals" in html
    said = "shows van gogh in 0 % of 1 image (unedited: 100 %); it shows retained concepts"
    assert (
        said.replace(" %", "\u00a0%") in html
        and "✓ forgotten" in html
        and "✓ the rest kept" in html
    )
    assert f"forget {forgetcli.__version__}, 20" in html and 'href="#images"' in html
    assert 'asked">✓ 0 %' in html  # to be forgotten: 0 % is right
    assert "On drawings" not in html and "other hands" in html and "25 %" in html
    (tmp_path / "report.json").write_text(
        "{broken"
    )  # an edited folder's own report: absent, damaged or another method's
    assert page(evaluation, tmp_path)


def test_a_good_and_a_bad_0_percent_differ(evaluation, tmp_path):
    """What should stay is lost, what should go is still there: signs and words say so."""
    worse = tuple(replace(a, seen=not a.seen) for a in evaluation.edited[0].answers)
    run = replace(evaluation.edited[0], answers=worse)
    html = page(replace(evaluation, edited=(run,)), tmp_path)
    assert "✗ not forgotten" in html and "✗ the rest damaged" in html
    assert 'asked">✗ 100 %' in html and '"bad">✗ 0 %' in html
    assert "monet is lost" in html and "van gogh is still seen" in html


def test_of_several_models_the_best_is_described(evaluation):
    def said(*values: float) -> str:
        model = evaluation.as_dict()["models"][0]
        return sentence(
            [
                {**model, "name": f"m{k}", "edited": {**model["edited"], "h": h}}
                for k, h in enumerate(values)
            ]
        )

    assert said(0.5, 0.9).startswith("Of 2 edits, m1 has the highest H: it shows van gogh in 0 %")
    assert said(0.9, 0.9, 0.9).startswith("Of 3 edits, m0 has the highest H, as 2 others have: it")


def test_a_verdict_says_what_attacks_did(evaluation):
    """Forgotten by prompts and brought back by an attack: hidden, not gone."""
    model = evaluation.as_dict()["models"][0]

    def said(**resist: float | None) -> tuple[str, str]:
        attacked = {**model, "edited": {**model["edited"], **resist}}
        return sentence([attacked]), " ".join(finding.text for finding in findings(attacked))

    text, badges = said(resist=0.25, resist_n=8)
    assert text.endswith("The strongest attack brings it back in 75 % of 8 attempts.")
    assert "hidden, not gone" in badges
    assert "attacks withstood" in said(resist=1.0, resist_n=8)[1]
    for absent in ({}, {"resist": None, "resist_n": 0}):
        text, badges = said(**absent)
        assert "attack" not in text and "attack" not in badges


def test_failures_come_first_and_every_alternative_text_says_the_verdict(evaluation):
    lost = [replace(a, seen=False) for a in evaluation.edited[0].answers]  # monet too
    run = replace(evaluation.edited[0], answers=tuple(lost))
    found = groups(evaluation.baseline, run)
    assert [(g.label, g.forget, g.failures) for g in found] == [
        ("monet", False, 1),
        ("van gogh", True, 0),
    ]
    pair = found[1].pairs[0]
    assert pair.alt_before == f"“{NASTY}” by the unedited model: judged van gogh"
    assert pair.alt_after == f"“{NASTY}” by $x^2$ <b>: van gogh is gone, judged none of these"
    targets = frozenset({("van gogh", "monet")})
    for judged, said in (("monet", "became its target monet"), ("cat", "not its target monet")):
        answer = replace(run.answers[0], judged=judged)
        other = replace(run, answers=(answer,), subject=replace(run.subject, targets=targets))
        assert groups(evaluation.baseline, other)[0].pairs[0].verdict.endswith(said)


def test_fid_of_few_pictures_is_marked(evaluation, tmp_path):
    def quality(count: int) -> str:
        measured = Quality({"name": "demo"}, edited=ModelQuality(fid=Measure(0.25, count)))
        name = evaluation.edited[0].subject.name
        return page(replace(evaluation, quality={name: measured}), tmp_path)

    assert "too few images" in quality(6) and "(0.25)" in quality(6)
    assert "too few images" not in quality(50)


def test_no_point_of_the_plot_is_hidden_under_another():
    """Of several at one place each is inside the one before it; others have the usual size."""
    first, alone, second, last = sizes([(1.0, 1.0), (0.5, 0.9), (1.0, 0.99), (1.0, 1.0)])
    assert first > second > last == alone


def test_the_sheet_has_every_pair(evaluation, tmp_path):
    pairs = selected_pairs(evaluation)
    assert [p.edited for p in pairs] == [True, False]
    write_sheet([Pair("p", p.before, p.after, p.edited) for p in pairs * 2], tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    # What to forget and what to keep do not share a row: two rows of two, each under its heading.
    assert sheet.width >= COLUMNS * 2 * SIDE and sheet.height >= 2 * (SIDE + HEADING + COLUMN_HEAD)
    pictures = GAP + HEADING + COLUMN_HEAD
    assert sheet.getpixel((20, pictures + 2)) == (255, 0, 0)
    headings = sheet.crop((0, 0, sheet.width, pictures)).convert("L")
    assert headings.getextrema()[0] < 80  # ink
    empty = sheet.crop((COLUMNS * (2 * SIDE) - SIDE, pictures, sheet.width, sheet.height))
    assert empty.getcolors() == [(empty.width * empty.height, (255, 255, 255))]


SIZE = "--window-size=1100,1400"


def look(page: Path, tmp_path: Path) -> tuple[Path, str, list[str]]:
    """Open a page in a real browser: its screenshot, what it said on the console, and the addresses
    it asked for.
    """
    screenshot, log = tmp_path / "shot.png", tmp_path / "net.json"
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            SIZE,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            f"--log-net-log={log}",
            f"--screenshot={screenshot}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    asked = re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]+)"', log.read_text())
    return (
        screenshot,
        console,
        [url for url in asked if "google" not in url],
    )  # the browser's own errands


@needs_chromium
def test_a_browser_shows_the_report_and_asks_for_nothing(evaluation, tmp_path):
    page(evaluation, tmp_path)
    screenshot, console, asked = look(tmp_path / "report.html", tmp_path)
    assert (console, asked) == ("", [])
    shown = Image.open(screenshot).convert("RGB")
    assert shown.size == (1100, 1400) and len(shown.getcolors(1 << 20)) > 50  # drawn, not blank
    control, foreign = tmp_path / "control.html", '<img src="http://127.0.0.1:9/x.png">'
    text = (tmp_path / "report.html").read_text().replace("</body>", f"{foreign}</body>")
    control.write_text(text)  # a foreign picture: the policy stops it, and says so
    _, console, asked = look(control, tmp_path / "held")
    assert "Content Security Policy" in console and asked == []
    control.write_text(
        text.replace("Content-Security-Policy", "x")
    )  # without the policy it is asked for: this test would see it
    _, _, asked = look(control, tmp_path / "free")
    assert asked and asked[0].startswith("http://127.0.0.1:9")


@needs_chromium
def test_a_phone_shows_the_page_without_scrolling_sideways(evaluation, tmp_path):
    # Intervals and counts as of an evaluation of 100 images.
    text = page(evaluation, tmp_path).replace("n\u00a0=\u00a01", "n\u00a0=\u00a0100")
    shown = layout(text, tmp_path / "phone")
    assert shown.window == shown.page == PHONE and len(shown.tables) >= 2
    table, box = shown.tables[0]
    assert table <= box  # the scores
    control = text.replace("@media (max-width", "@media (max-height: 1px) and (max-width")
    table, box = layout(control, tmp_path / "control").tables[0]
    assert table > box  # the rules for narrow windows are what makes it fit


@needs_chromium
def test_a_table_that_is_too_wide_scrolls_in_its_box(evaluation, tmp_path):
    text = page(evaluation, tmp_path).replace(
        "<th>unedited</th>", "<th>" + "unedited" * 60 + "</th>"
    )
    shown = layout(text, tmp_path / "phone")
    assert shown.page == PHONE < shown.tables[0][0]
    shown = layout(text.replace(".wide { overflow-x: auto;", ".wide {"), tmp_path / "control")
    assert shown.page > PHONE  # without the box the page itself would scroll
