"""Claim: every command in a block of a document works.

A page of `SESSIONS` is followed as a reader would: its commands run in order, in one folder, on the
embedded model. Small recipes of the printed names keep that short. What takes too long, or needs
what is not here, is run by another test or read by the command line only, and the tables say so. A
new command that none of this covers fails. Programs that install, build or train are only read.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from command_blocks import commands, documents
from command_lines import parse
from forked import Forks
from processes import ROOT

from forgetcli.cli.app import app

# Pages whose commands run, one session a folder. A later page of a session uses the models of an
# earlier one.
SESSIONS = (
    ("README.md", "docs/quickstart.md", "docs/evidence.md", "docs/export.md", "docs/erase.md"),
    ("docs/attacks.md",),
)

# Commands, or whole pages, that another test runs.
ELSEWHERE = {
    "docs/tutorial.md": "tests/docs/test_tutorial.py::test_every_command_of_the_tutorial_runs",
    "forget erase": "tests/cli/test_erase.py::"
    "test_the_concept_was_drawn_before_and_is_not_after_and_others_stay",
    "docs/verification.md": "tests/verification/test_published.py::"
    "test_a_repository_is_verified_and_the_edit_repeated",
    "forget compare objects": "tests/experiments/test_compare.py::"
    "test_the_table_has_the_unedited_model_and_every_method",
    "accelerate launch": "tests/evaluation/test_eval_process.py::"
    "test_two_processes_give_what_one_gives",
    "--replay": "tests/robustness/test_attack_process.py::test_replay",
    "-o edited-40": "tests/recipe/test_recipe.py::"
    "test_set_changes_one_value_and_the_record_repeats_it",
    "forget generate 'starry night'": "tests/docs/test_tutorial.py::"
    "test_every_command_of_the_tutorial_runs",
    "--threads 1": "tests/test_threads.py::test_the_option_wins_then_the_variable_then_cores",
    "docs/recipes.md": "tests/recipe/test_recipe.py::"
    "test_set_changes_one_value_and_the_record_repeats_it",
}

# Commands, or whole pages, that are only read, and why.
READ = {
    "--device cuda": "needs a GPU",
    "forget tune": "takes an hour",
    "docs/reference/cli.md": "examples of the help, for each command by itself",
    "docs/reference_study.md": "needs a GPU and 20 GB of weights",
    "docs/evaluation.md": "a workflow: what README.md and docs/tutorial.md show, with more images",
    "docs/robustness.md": "learns words in 250 steps, for hours",
    "docs/earlier_attacks.md": "learns words in 250 steps, for hours",
}

# Options that make images, attacks and comparisons small. They change no command.
SMALL = {"FORGET_STEPS": "1", "FORGET_IMAGES": "1", "FORGET_ATTACKS": "swap"}
SMALL_INVERSION = {"FORGET_ATTACK_SET": "inversion.steps=1"}
RECIPE = """\
[[concepts]]
concept = "{concept}"
target = "{target}"
direct = ["a picture of {concept}"]

[preserve]
prompts = ["a car", "a tree"]

[[retain]]
concept = "a car"
direct = ["a red car"]

[[near]]
concept = "a rocket"
direct = ["a red rocket"]

[edit]
prior = 0.0
sites = [1]
min_rank = 16

[refine]
mode = "copy"
pictures = 2
latent_steps = 2
"""

DOCUMENTS = documents()
COMMANDS = [(page, line) for page, text in DOCUMENTS.items() for line in commands(text)]


def key_of(table: dict[str, str], page: str, line: str) -> str | None:
    """The key of `table` that covers a command: its page, or a part of it."""
    return next((key for key in table if key == page or key in line), None)


def in_session(page: str) -> bool:
    return any(page in pages for pages in SESSIONS)


# --- all commands are covered, and all are read


def test_every_command_is_run_or_there_is_a_reason():
    forgotten = [
        f"{page}: {line}"
        for page, line in COMMANDS
        if line.startswith("forget ")
        and not (in_session(page) or key_of(ELSEWHERE, page, line) or key_of(READ, page, line))
    ]
    assert len(COMMANDS) > 150 and not forgotten
    for key in (*ELSEWHERE, *READ):
        assert any(key_of({key: ""}, page, line) for page, line in COMMANDS), f"unused: {key}"


@pytest.mark.parametrize("test", ELSEWHERE.values())
def test_the_tests_that_run_the_others_exist(test: str):
    path, name = test.split("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", DOCUMENTS)
def test_every_program_accepts_its_command(page: str):
    for line in commands(DOCUMENTS[page]):
        program, *arguments = shlex.split(line)
        name = program.removeprefix(".venv/bin/")
        assert name in PROGRAMS, f"{page}: unknown program: {line}"
        PROGRAMS[name](page, arguments)


def check_forget(page: str, arguments: list[str]) -> None:
    parse(shlex.join(["forget", *arguments]))


def check_accelerate(page: str, arguments: list[str]) -> None:
    check_forget(page, arguments[arguments.index("forgetcli") + 1 :])


def check_make(page: str, arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *variables = arguments
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for variable in variables:
        assert f"{variable.partition('=')[0]} ?= " in makefile


def check_pip(page: str, arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
        assert set(extra.split(",")) <= set(project["optional-dependencies"])


def check_python(page: str, arguments: list[str]) -> None:
    """A module, or a script of the repository: there it is, and its source declares the options."""
    if arguments[0] == "-m":
        assert arguments[1] in ("venv", "pytest")
        places = arguments[2:] if arguments[1] == "pytest" else []
        assert all((ROOT / place).exists() for place in places)
        return
    folders = (ROOT, ROOT / "scripts" / "demo_model")
    script = next(folder / arguments[0] for folder in folders if (folder / arguments[0]).is_file())
    source = script.read_text(encoding="utf-8")
    for option in (word for word in arguments if word.startswith("--")):
        assert re.search(rf'add_argument\(\s*"{option}"', source), (
            f"{page}: {script} has no {option}"
        )


def check_files(page: str, arguments: list[str]) -> None:
    """All files of the repository that are named exist."""
    for word in (word for word in arguments if "/" in word):
        place = ROOT / "scripts/demo_model" / word if word.startswith("..") else ROOT / word
        assert place.exists() or word.startswith("WORK"), f"{page}: {word}"


def check_nothing(page: str, arguments: list[str]) -> None:
    """A program of the system, on files of the reader's."""


PROGRAMS: dict[str, Callable[[str, list[str]], None]] = {
    "forget": check_forget,
    "accelerate": check_accelerate,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
    "source": check_files,
    "cp": check_files,
    "cd": check_files,
    "grep": check_files,
    "echo": check_nothing,
    "npm": check_nothing,
    "openssl": check_nothing,
    "rm": check_nothing,
}


def named_in_the_text() -> Iterator[tuple[str, str]]:
    for page, text in DOCUMENTS.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for line in re.findall(r"`forget ([^`]+)`", prose):
            yield page, " ".join(line.split())


def test_commands_and_options_that_the_text_names_exist():
    group = typer.main.get_command(app)
    named = list(named_in_the_text())
    assert len(named) > 80
    for page, line in named:
        words = line.split(" | ")[0].split(" && ")[0].split()
        command = group
        while words and words[0] in getattr(command, "commands", {}):
            name = words.pop(0)
            command = command.load(name) if hasattr(command, "load") else command.commands[name]
        assert command is not group or words[0].startswith("--"), f"{page}: forget {line}"
        options = {name for parameter in command.params for name in parameter.opts}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word in {*options, "--help"}, f"{page}: forget {line}"


# --- the commands run


@pytest.mark.parametrize("pages", SESSIONS, ids=lambda pages: pages[0])
def test_the_commands_of_a_page_run_in_order(
    pages: tuple[str, ...], forked: Forks, tmp_path: Path
) -> None:
    furnish(tmp_path)
    listed = [
        (page, line.removeprefix(".venv/bin/"))
        for page in pages
        for line in commands(DOCUMENTS[page])
        if not (key_of(ELSEWHERE, page, line) or key_of(READ, page, line))
    ]
    has_run: set[str] = set()
    for page, line in listed:
        program, *arguments = shlex.split(line)
        if program != "forget" or line in has_run:
            continue
        small = SMALL | SMALL_INVERSION if "--attacks swap,inversion" in line else SMALL
        done = forked(tmp_path, *arguments, **small)
        # An edit that is this small misses the bound of the example.
        expected = 1 if "--fail-under" in line else 0
        assert done.code == expected, f"{page}: {line}\n{done.stdout}\n{done.stderr}"
        has_run.add(line)
    assert len(has_run) >= 5


def furnish(folder: Path) -> None:
    """Small recipes of the printed names, and what a checkout has."""
    for name, concept, target in (("art_styles", "van gogh", "monet"), ("objects", "dog", "cat")):
        text = RECIPE.format(concept=concept, target=target)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")


@pytest.mark.parametrize("page", sorted(DOCUMENTS.keys() - {"docs/reference/cli.md"}))
def test_no_command_of_a_page_needs_the_place_of_an_earlier_output(page: str):
    """`forget apply` and others refuse a folder that is there, so the next command would fail."""
    written: dict[Path, str] = {}
    for line in commands(DOCUMENTS[page]):
        if not re.match("forget (erase|apply|revert)", line):
            continue
        _, values = parse(line)
        output = values.get("output", Path("edited"))
        if "--force" not in line and "--dry-run" not in line:
            assert output not in written, f"{page}: {line}: {output} is that of {written[output]}"
            written[output] = line
