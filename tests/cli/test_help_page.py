"""Claims: the help page shows the five commands that most people need first, and every other
command in one named panel below; a bare `forget` shows the same page as a usage error.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import typer
from processes import Run

from forgetcli.cli.app import COMMANDS, app

FIRST = ["erase", "generate", "eval", "attack", "revert"]


def panels_of(page: str) -> dict[str, list[str]]:
    """The titles of a page's panels, with the terms in each."""
    panels: dict[str, list[str]] = {}
    for line in page.splitlines():
        if title := re.match(r"╭─ (.+?) ─+╮", line):
            panels[title[1]] = []
        elif term := re.match(r"│ ([a-z-].*?)  ", line):
            panels[list(panels)[-1]].append(term[1])
    return panels


@pytest.mark.parametrize("columns", ["80", "100"])
def test_five_verbs_are_first_and_each_command_is_in_one_panel(
    forget: Callable[..., Run], columns: str
):
    run = forget("--help", COLUMNS=columns)
    assert (run.code, run.stderr) == (0, "")
    panels = panels_of(run.stdout)
    *commands, options = panels
    assert (commands[0], panels[commands[0]], options) == ("Start here", FIRST, "Options")
    listed = [name for title in commands for name in panels[title]]
    assert listed == list(COMMANDS) and len(set(listed)) == len(listed)
    assert len(commands) >= 4 and all(len(panels[title]) >= 3 for title in commands)
    # The texts of all panels begin in the same column.
    rows = [re.match(r"│ [a-z]+ +", line) for line in run.stdout.splitlines()]
    assert len({row.end() for row in rows if row}) == 1


def test_without_a_command_the_same_page_is_a_usage_error(forget: Callable[..., Run]):
    run, page = forget(), forget("--help").stdout
    assert (run.code, run.stdout) == (2, "")
    assert panels_of(run.stderr) == panels_of(page) != {}


def test_panels_have_the_titles_of_the_table():
    """Completion lists commands in the order of the table: those of a panel follow one another."""
    group = typer.main.get_command(app)
    titles = [group.commands[name].rich_help_panel for name in COMMANDS]
    assert titles == [entry.panel for entry in COMMANDS.values()]
    assert [title for title, _ in itertools.groupby(titles)] == list(dict.fromkeys(titles))


def test_a_group_without_panels_has_one(forget: Callable[..., Run]):
    panels = panels_of(forget("recipe", "--help").stdout)
    assert list(panels) == ["Commands", "Options"] and "validate" in panels["Commands"]
    assert list(panels_of(forget("recipe", "validate", "--help").stdout)) == [
        "Arguments",
        "Options",
    ]
