"""Text from anybody, through every output: it stays text, on its line and in its cell."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from forgetcli import recipe
from forgetcli.artifact import markdown
from forgetcli.cli.app import app
from forgetcli.cli.visible import one_line as terminal_line
from forgetcli.cli.visible import visible, visible_json
from forgetcli.errors import ForgetError
from forgetcli.evaluation import Answer, Evaluation, Question, Run, Subject
from forgetcli.evaluation.gates import Gate, Outcome
from forgetcli.report import write
from forgetcli.report.results import write_junit
from forgetcli.report.spreadsheet import csv_table, inert_cell
from forgetcli.storage import json as plain_json

HOSTILE = {
    "ESC": "\x1b[2J\x1b[31mred",
    "OSC": "\x1b]0;owned\x07\x1b]8;;http://example.com\x1b\\x",
    "C1": "\u009b2J\u0090x\u009c",
    "bidi": "\u202eterces\u2066x\u2069\u200f",
    "formula": '=HYPERLINK("http://example.com","x")',
    "blank formula": ' \u00a0\ufeff=HYPERLINK("x")',
    "full-width formula": "＝HYPERLINK(1)",
    "hidden formula": "\u202e\u2060\x1b@SUM(1)",
    "formula behind a return": "x\r=HYPERLINK(1)",
    "image": "<img src=x onerror=alert(1)>",
    "script": "</style></title></script><script>alert(1)</script>",
    "entity": "&lt;img&gt; &#60;script&#62;",
    "markup": "[red]x[/red] [bold link=http://example.com]",
    "lines": "a\nb\r\nc\u2028d\x85e",
    "table": "a | b |\n| --- |",
    "code": "`x` ``y`` ```z",
    "link": "[x](javascript:alert(1)) ![y](http://example.com/z.png)",
    "block": "1. one\n# two\n> three\n--- four",
    "mathematics": r"$\alpha$ \$x_1$",
    "surrogate": "caf\udce9 \ud800",
    "NUL": "a\x00b\x7f",
    "underscore": "_hidden_",
}
ANY_TEXT = st.text(st.characters()) | st.sampled_from(list(HOSTILE.values()))
CONTROLS = {chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))} | set("\u202e\u2066\u2069\u200f")
SIGNS = tuple("=+-@＝＋－＠")


class Page(HTMLParser):
    """The elements of a page, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@settings(max_examples=150, deadline=None)
@given(cells=st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_a_csv_has_one_row_a_row_and_no_formula(cells: list[str]):
    written = csv_table(("a",) * len(cells), [cells, cells]).decode()
    # As a spreadsheet reads it: a lone carriage return ends a row too.
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert len(rows) == 3 and "\r" not in written
    for cell in rows[1]:
        bare = "".join(char for char in cell if char.isprintable()).strip()
        assert not bare.startswith(SIGNS)


@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT)
def test_markdown_is_one_line_of_text(text: str):
    for written in (
        markdown.escaped(text),
        markdown.heading(text),
        markdown.escaped(inert_cell(text)),
    ):
        assert "\n" not in written and not CONTROLS & set(written)
        written.encode()
        bare = written.replace("\\\\", "")
        for sign in "<>[]`|*":
            assert bare.count(sign) == bare.count(f"\\{sign}")
    code = markdown.code(text)
    assert "\n" not in code and not CONTROLS & set(code) and code.encode()


@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT)
def test_a_terminal_gets_no_control_character(text: str):
    assert not (CONTROLS - set("\n\t")) & set(visible(text))
    assert not CONTROLS & set(terminal_line(text))
    encoded = plain_json.encode({text: [text]}).decode()
    for can_hold in (lambda char: True, str.isascii):
        shown = visible_json(encoded, can_hold)
        assert json.loads(shown) == {text: [text]}
        assert not (CONTROLS - {"\n"}) & set(shown)
    assert visible_json(encoded, str.isascii).isascii()


@pytest.mark.parametrize("name", HOSTILE)
def test_every_file_of_an_evaluation_holds(tmp_path: Path, name: str):
    text = HOSTILE[name]
    path = tmp_path / "0.png"
    Image.new("RGB", (2, 2)).save(path)

    def run(model: str, forgets: frozenset[str], seen: bool) -> Run:
        base = SimpleNamespace(id=text, digest="d", revision=None, folder=tmp_path)
        answers = tuple(
            Answer(Question(label, label, text), 0, path, seen, text, 0.5)
            for label in (text, "dog")
        )
        return Run(Subject(model, base, forgets, recipe_sha256="r"), answers)

    evaluation = Evaluation(
        judge={"name": text, "digest": text},
        baseline=run("unedited", frozenset(), True),
        edited=(run(text, frozenset({text}), False),),
        settings={"images": 1, "seed": 0, "steps": 1, "guidance": None, "batch": 1},
        seconds={"total": 1.0},
    )
    data = evaluation.as_dict()
    files = write(
        tmp_path, evaluation, data, title=text, description=text, command=f"forget eval {text}"
    )
    write_junit(
        tmp_path / "junit.xml",
        data,
        [Outcome(model=text, gate=Gate("forget", 0.5), text=text, passed=False)],
    )
    page = Page(files.page.read_text(encoding="utf-8"))
    plain = Page(files.page.read_text(encoding="utf-8").replace(text, ""))
    assert "script" not in page.tags and "onerror" not in page.attributes
    assert page.tags == plain.tags and not (CONTROLS - {"\n", "\t"}) & set(files.page.read_text())
    with open(files.table, encoding="utf-8", newline="") as table:
        assert len(list(csv.DictReader(table))) == 4
    assert json.loads(files.results.read_bytes())["models"][0]["name"] == text
    cases = ElementTree.parse(tmp_path / "junit.xml").findall("testcase")
    assert len(cases) == 3
    (plotted,) = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", files.page.read_text())
    assert ElementTree.fromstring(base64.b64decode(plotted)).tag.endswith("svg")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_is_shown_as_text_and_means_the_same(tmp_path: Path, name: str):
    """`recipe show > full.toml` is also how a recipe is copied: the copy has the same values."""
    text = HOSTILE[name]
    document = {
        "concepts": [{"concept": text, "target": "monet", "prompts": [text]}],
        "preserve": {"prompts": ["a cat", f"{text} cat"]},
    }
    source = tmp_path / "hostile.toml"
    source.write_text(tomlkit.dumps(document), encoding="utf-8", errors="surrogatepass")
    shown = CliRunner().invoke(app, ["recipe", "show", str(source)])
    assert not (CONTROLS - {"\n"}) & set(shown.output)
    if shown.exit_code:  # a recipe must not have these
        assert isinstance(shown.exception, ForgetError), shown.output
        assert name == "surrogate", shown.exception
        return
    (tmp_path / "copy.toml").write_text(shown.stdout, encoding="utf-8")
    first, second = (recipe.load(tmp_path / file) for file in ("hostile.toml", "copy.toml"))
    assert first.concepts == second.concepts and first.preserve == second.preserve
