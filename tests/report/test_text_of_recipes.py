"""Names from recipes stay text: no cell is a formula, and no Markdown holds HTML."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import PHONE, layout, needs_chromium
from PIL import Image

from forgetcli import recipe as recipes
from forgetcli.artifact import markdown
from forgetcli.evaluation import Answer, Evaluation, Question, Run, Subject
from forgetcli.experiments.comparison import ComparedRecipe, Comparison, Row
from forgetcli.experiments.comparison.edits import Fault
from forgetcli.report import comparison as comparison_report
from forgetcli.report.spreadsheet import csv_table, inert_cell

LINK = 'HYPERLINK("http://example.com","x")'
IMAGE = "<img src=x onerror=alert(1)>"
BLANKS = ("", " ", "\u00a0", "\ufeff", "\n", " \t", "\u2003\u200b")
SIGNS = "=+-@＝＋－＠"


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("sign", SIGNS)
def test_a_formula_behind_blanks_is_text(blank: str, sign: str):
    cell = f"{blank}{sign}{LINK}"
    assert inert_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["\tx", "\rx", " \tx"])
def test_a_cell_that_begins_with_a_tab_is_text(cell: str):
    assert inert_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["van gogh", "a = b", " a", "0.5", "", -1, 0.25, None, "–"])
def test_other_cells_stay_as_they_are(cell: object):
    assert inert_cell(cell) is cell


def test_a_table_is_neutral_in_every_column():
    written = csv_table(("a", "b"), [(f"={LINK}", 'plain, "quoted"'), ("x", f" ＝{LINK}")])
    assert list(csv.reader(io.StringIO(written.decode()))) == [
        ["a", "b"],
        [f"'={LINK}", 'plain, "quoted"'],
        ["x", f"' ＝{LINK}"],
    ]


def test_markdown_shows_text_as_it_is():
    assert markdown.escaped(IMAGE) == r"&lt;img src\=x onerror\=alert\(1\)&gt;"
    assert markdown.escaped("a|b *c*\n# d_e") == r"a\|b \*c\* \# d\_e"
    assert markdown.escaped("www.x.org @me") == r"www\.x\.org \@me"
    assert markdown.escaped("&lt;b&gt; R&B") == "&amp;lt;b&amp;gt; R&amp;B"
    assert markdown.heading("art_styles _x_ <b>") == r"art_styles \_x\_ &lt;b&gt;"


def test_inline_code_cannot_be_left():
    assert markdown.code("forget compare x") == "`forget compare x`"
    assert markdown.code(f"a ` {IMAGE}") == f"`` a ` {IMAGE} ``"


def compared(folder: Path, name: str, concept: str) -> ComparedRecipe:
    """A comparison of one method with a recipe and a concept of these names."""

    def run(model: str, forgets: frozenset[str]) -> Run:
        path = folder / f"{model}.png"
        Image.new("RGB", (8, 8), "red").save(path)
        base = SimpleNamespace(id="base", digest="f" * 64, folder=folder)
        question = Question(concept, concept, f"a {concept}")
        answer = Answer(question, 0, path, not forgets, "none", 0.5)
        subject = Subject(model, base, forgets, recipe_sha256="a" * 64)
        return Run(subject, (answer,))

    evaluation = Evaluation(
        {"name": "demo", "digest": "0" * 64},
        run("unedited", frozenset()),
        (run("uce", frozenset({concept})),),
        {"seed": 0},
        {"total": 1.0},
    )
    failed = Row("esd", fault=Fault("edit.x", f"no {IMAGE}"))
    return ComparedRecipe(
        name=name,
        recipe=recipes.load("art_styles"),
        base=SimpleNamespace(id="base", revision=None, digest="f" * 64),
        folder=folder,
        rows=(Row("unedited"), Row("uce"), failed),
        evaluation=evaluation,
    )


def written(folder: Path, names: list[str], concept: str) -> None:
    """The files of a comparison over recipes of these names."""
    parts = []
    for number, name in enumerate(names):
        place = folder / str(number) if len(names) > 1 else folder
        place.mkdir(exist_ok=True)
        parts.append(compared(place, name, concept))
    comparison = Comparison(
        rows=parts[0].rows,
        recipes=tuple(parts),
        judge={"name": "demo"},
        settings={"images": 1, "guidance": None, "quick": True},
        seconds={"total": 1.0},
    )
    comparison_report.write(
        folder, comparison, comparison.as_dict(), command=f"forget compare '`{IMAGE}`'"
    )


@pytest.mark.parametrize("blank", ["", " ", "\u00a0"])
def test_a_concepts_name_is_no_formula_in_the_table_of_a_comparison(tmp_path: Path, blank: str):
    concept = f"{blank}={LINK}"
    written(tmp_path, ["tiny"], concept)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["concept"] for row in rows] == [f"'{concept}"] * 2


def test_a_recipes_name_is_no_formula_in_the_table_of_a_comparison(tmp_path: Path):
    written(tmp_path, [f"={LINK}", "@x"], "van gogh")
    with (tmp_path / "results.csv").open() as file:
        assert [row["recipe"][:2] for row in csv.DictReader(file)] == ["'="] * 2 + ["'@"] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_recipes_name_is_no_html_in_the_markdown_of_a_comparison(tmp_path: Path, count: int):
    written(tmp_path, [IMAGE, "tiny"][:count], "van gogh")
    text = (tmp_path / "compare.md").read_text()
    code = "To repeat it: ``"
    assert text.partition(code)[0].count("<img") == 0
    # In the heading, and in a line of each table.
    assert text.count("&lt;img") == 1 + count + (count == 2)
    assert f"`` forget compare '`{IMAGE}`' ``" in text


def test_usual_names_are_written_as_before(tmp_path: Path):
    written(tmp_path, ["art_styles"], "van gogh")
    text = (tmp_path / "compare.md").read_text()
    assert text.startswith("# art_styles: every method beside the unedited model\n\n| method |")
    assert "\nJudge demo; images 1, quick. To repeat it: " in text


@needs_chromium
def test_a_phone_shows_a_comparison_without_scrolling_sideways(tmp_path: Path):
    written(tmp_path, ["art_styles"], "van gogh")
    shown = layout((tmp_path / "report.html").read_text(), tmp_path / "phone")
    assert shown.window == shown.page == PHONE
    (table, box), *_ = shown.tables
    assert table > box  # a column for each measure: it scrolls in its box
