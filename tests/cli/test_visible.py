"""What recipes, manifests and file names hold cannot drive the terminal or be read as markup."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import tomli
from recipe_example import EXAMPLE

from forgetcli.cli import tables
from forgetcli.cli.sink import Sink, rendered
from forgetcli.cli.visible import one_line, visible, visible_json

TITLE_CHANGE = "\x1b]0;owned\x07"
CLEAR_SCREEN = "\u009b2J"
RIGHT_TO_LEFT = "\u202eterces"
HOSTILE = f"a{TITLE_CHANGE}{CLEAR_SCREEN}{RIGHT_TO_LEFT}\u2066 [red]x[/red]"
FORBIDDEN = set("\x1b\x07\u009b\u202e\u2066\r")


class Terminal(io.StringIO):
    """A stdout that says it is a terminal, to which rich writes its own escapes."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def hostile(good: Path) -> Path:
    """A recipe whose name and description are hostile; valid TOML."""
    lines = f"name = {json.dumps(HOSTILE)}\ndescription = {json.dumps(HOSTILE)}\n"
    good.write_text(lines + EXAMPLE, encoding="utf-8")
    return good


@pytest.mark.parametrize("mode", [[], ["--json"]], ids=["people", "json"])
def test_a_hostile_recipe_is_shown_and_stays_the_same_recipe(forget, hostile: Path, mode: list):
    run = forget("recipe", "show", hostile, *mode)
    assert run.code == 0 and not FORBIDDEN & set(run.stdout + run.stderr)
    shown = run.json["recipe"] if mode else tomli.loads(run.stdout)
    assert shown["name"] == HOSTILE and shown["description"] == HOSTILE


def test_the_error_line_is_safe(forget):
    run = forget("recipe", "show", f"absent{HOSTILE}")
    assert run.code == 2 and not FORBIDDEN & set(run.stderr)
    assert r"\x1b]0;owned\x07\u009b2J\u202eterces\u2066 [red]x[/red]" in run.stderr


def parts() -> list:
    """Everything that a command may hand to its sink."""
    table = tables.table(("name", f">{HOSTILE}"), [[HOSTILE, 1]], title=f"edits of '{HOSTILE}'")
    return [HOSTILE, tables.facts({"base": HOSTILE, "ids": [HOSTILE]}), table]


@pytest.mark.parametrize("number", range(3), ids=["text", "facts", "table"])
@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "terminal"])
def test_the_sink_makes_every_part_safe(
    number: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "400")
    Sink("log").result({}, human=lambda: parts()[number], quiet="")
    printed = stream.getvalue()
    # On a terminal rich's own styles remain; they are "ESC [ … m" and nothing else.
    without_styles = printed.replace("\x1b[", "") if terminal else printed
    assert not FORBIDDEN & set(without_styles)
    assert "[red]x[/red]" in printed and r"\x1b]0;owned\x07" in printed


def test_a_renderable_that_was_not_made_by_tables_is_safe_too(monkeypatch: pytest.MonkeyPatch):
    from rich.table import Table

    monkeypatch.setattr("sys.stdout", io.StringIO())
    table = Table(title="[red]x[/red]")
    table.add_column("[red]y[/red]")
    table.add_row(CLEAR_SCREEN + RIGHT_TO_LEFT)
    text = rendered(table)
    assert "[red]x[/red]" in text and "[red]y[/red]" in text and not FORBIDDEN & set(text)


def test_paths_reach_other_programs_as_they_are(monkeypatch: pytest.MonkeyPatch):
    for stream, expected in ((io.StringIO(), "a\u202eb\n"), (Terminal(), "a\\u202eb\n")):
        monkeypatch.setattr("sys.stdout", stream)
        Sink("x", quiet=True).result({}, human=str, quiet="a\u202eb")
        assert stream.getvalue() == expected


def test_text_of_every_language_is_shown_as_it_is():
    text = "Ελληνικά 漢字 עברית\u00a0👩\u200d🎨 λ → ‖Δ‖\n\tend"
    assert visible(text) == text and visible_json(text.replace("\t", "")) == text.replace("\t", "")
    assert one_line(" a \n b\t") == "a b"


def test_json_keeps_its_value():
    value = {HOSTILE: ["\U000e0001", "\x7f", "é"]}
    text = visible_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value and not (FORBIDDEN | {"\U000e0001", "\x7f"}) & set(text)
