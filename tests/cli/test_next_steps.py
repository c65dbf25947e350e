"""Claims: a command that ends well says what comes next, in one line for people, as a command that
forget itself accepts; not with -q or --json, and not after a negative verdict.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import typer
from command_lines import parse
from evidence_runs import ATTACKS, SCORES, measured
from forked import Forks
from processes import ROOT, Run

from forgetcli.cli import next_steps
from forgetcli.cli.app import app

# A value of each kind for every name in the table.
VALUES: dict[str, next_steps.Value] = {
    "attacks": Path(ATTACKS),
    "edit": 2,
    "folder": Path("my edited"),
    "judge": "demo",
    "measure": "attack",
    "method": "uce",
    "model": "edited",
    "output": Path("out put"),
    "path": Path("my.toml"),
    "prompt": "it's a starry night; rm -r x",
    "recipe": "objects",
    "repo": "me/model",
    "results": Path(SCORES),
}
TINY = ("--steps", "2", "--batch", "2")


def leaves(group: object, *path: str) -> Iterator[str]:
    """The full names of all commands."""
    for name, listed in group.commands.items():
        command = group.load(name) if hasattr(group, "load") else listed
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name))


def next_of(run: Run) -> str | None:
    """The command that a run names as next; it is the last line of stderr, and the only one."""
    lines = run.stderr.splitlines()
    told = [line for line in lines if line.startswith("next: ")]
    assert told in ([], lines[-1:]), run.stderr
    return "forget " + told[0].split("forget ", 1)[1] if told else None


# --- the table


def test_every_command_has_a_next_step_or_a_reason_for_none():
    names = list(leaves(typer.main.get_command(app)))
    with_step = {name for name in names for key in next_steps.STEPS if f"{key} ".startswith(name)}
    assert with_step.isdisjoint(next_steps.LAST)
    assert {*with_step, *next_steps.LAST} == {*names}
    assert all(next_steps.LAST.values())


@pytest.mark.parametrize("name", next_steps.STEPS)
def test_every_line_is_a_command_that_parses(name: str):
    values = dict(VALUES)
    if name in ("compare", "tune"):
        values["model"] = ["--model", "my model"]
        assert "'my model'" in next_steps.line(name, **values)
        parse(next_steps.line(name, **{**values, "model": None}))
    told = next_steps.line(name, **values)
    command, given = parse("forget " + told.split("forget ", 1)[1])
    assert command and "{" not in told
    for word, value in VALUES.items():
        if f"{{{word}}}" in next_steps.STEPS[name].line and isinstance(value, Path):
            shown = [str(each) for each in given.values()] + [str(given)]
            assert any(str(value) in each for each in shown), (word, given)


def test_values_are_quoted():
    told = next_steps.line("apply", **VALUES)
    assert shlex.split(told)[2] == VALUES["prompt"] and shlex.split(told)[4] == "out put"


def test_every_step_is_told_by_a_command():
    files = [
        path for path in (ROOT / "forgetcli" / "cli").glob("*.py") if path.name != "next_steps.py"
    ]
    calls = "".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r'"([^"\n]+)"', calls))
    formats = {f"export --format {name}" for name in ("delta", "cyclonedx")}
    assert {*next_steps.STEPS} - formats <= named
    assert 'f"export --format {format}"' in calls


# --- the commands


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured(tmp_path_factory.mktemp("original"))


@pytest.fixture
def run(forked: Forks, tmp_path: Path) -> Callable[..., Run]:
    return partial(forked, tmp_path)


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    for name in ("sd", "edited", "eval", "attack"):
        shutil.copytree(original / name, tmp_path / name)
    shutil.copy(original / "art.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("recipe", "init", "my.toml"), "forget recipe validate my.toml"),
        (("recipe", "validate", "art_styles"), "forget apply art_styles"),
        (("recipe", "validate", "art_styles", "objects"), None),
        (("recipe", "show", "art_styles"), "forget apply art_styles"),
        (("recipe", "show", "art_styles", "--method", "uce"), None),
        (("recipe", "ls"), "forget recipe show actions"),
        (("recipe", "sets"), None),
        (("recipe", "schema"), None),
        (("models",), "forget inspect demo"),
        (("judges",), "forget judges clip"),
        (("judges", "demo"), "forget eval --judge demo"),
        (("inspect", "demo"), "forget erase CONCEPT --model demo"),
        (("cache", "dir"), None),
        (("cache", "ls"), None),
        (("env",), None),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_commands_without_a_model_of_ones_own(
    run: Callable[..., Run], tmp_path: Path, arguments: tuple[str, ...], told: str | None
):
    done = run(*arguments)
    assert done.code == 0 and next_of(done) == told, done.stderr
    if told is not None:
        parse(told)
        (tmp_path / "my.toml").unlink(missing_ok=True)
        assert next_of(run(*arguments, "--json")) is None
        (tmp_path / "my.toml").unlink(missing_ok=True)
        assert next_of(run(*arguments, "-q")) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("verify", "edited"), "forget eval edited"),
        (("log", "edited"), "forget revert edited --edit 1 -o edited-without-1"),
        (("inspect", "edited"), "forget log edited"),
        (("card", "edited"), "forget eval edited"),
        (("card", "edited", "--eval", SCORES), "forget push edited ORG/NAME"),
        (("card", "edited", "--evidence"), "forget push edited ORG/NAME"),
        (
            ("export", "edited", "--format", "delta"),
            "forget apply --delta edited-delta.safetensors -o restored",
        ),
        (("export", "edited", "--format", "cyclonedx"), "forget card edited --evidence"),
        (("export", "edited", "--format", "lora"), None),
        (("export", "edited", "--format", "delta", "--dry-run"), None),
        (("revert", "edited", "--all", "-o", "base"), None),
        (
            ("generate", "a cat", "--model", "edited", "--steps", "2"),
            "forget eval edited",
        ),
        (("generate", "a cat", "--model", "sd", "--steps", "2"), None),
        (("eval", "edited", *TINY, "--features", "none"), "forget attack edited"),
        (
            ("eval", "edited", *TINY, "--features", "none", "--attack-results", ATTACKS),
            f"forget card edited --evidence --eval {SCORES} --attack-results {ATTACKS}",
        ),
        (
            ("attack", "edited", *TINY, "-n", "2", "--attacks", "swap", "-o", "again"),
            "forget card edited --evidence --attack-results again/results.json",
        ),
        (
            ("apply", "art.toml", "--model", "sd", "-o", "new", "--lenient"),
            "forget generate 'starry night' --model new --compare-base",
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_commands_on_a_model(
    run: Callable[..., Run], place: Path, arguments: tuple[str, ...], told: str | None
):
    shutil.rmtree(place / "eval" / "verdicts", ignore_errors=True)
    done = run(*arguments, "--force") if arguments[0] == "eval" else run(*arguments)
    assert done.code == 0 and next_of(done) == told, done.stderr
    if told is not None:
        parse(told)


def test_a_line_that_is_told_does_what_it_says(run: Callable[..., Run], place: Path):
    """One after another: what is told is run as it stands."""
    told = next_of(run("inspect", "edited"))
    for command in ("log", "revert"):
        words = shlex.split(told)
        assert words[:2] == ["forget", command]
        done = run(*words[1:])
        assert done.code == 0, done.stderr
        told = next_of(done)
    assert told is None and (place / "edited-without-1").is_dir()  # no edit remains
    exported = next_of(run("export", "edited", "--format", "delta"))
    done = run(*shlex.split(exported)[1:])
    assert done.code == 0, done.stderr
    assert next_of(done) == "forget verify restored"
    assert run("verify", "restored", "-q").code == 0


def test_a_negative_verdict_and_an_error_have_no_next_step(run: Callable[..., Run], place: Path):
    (place / "edited" / "README.md").write_text("changed\n")
    done = run("verify", "edited")
    assert done.code == 1 and next_of(done) is None
    done = run("export", "edited", "--format", "cyclonedx")
    assert done.code == 2 and next_of(done) is None
    bound = ("--fail-under", "resist=1")
    done = run("attack", "edited", *TINY, "-n", "2", "--attacks", "swap", "-o", "again", *bound)
    assert done.code == 1 and next_of(done) is None and "failed: " in done.stderr
