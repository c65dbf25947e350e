"""docs/newcomer.md is a recording: no line is written by hand, and its commands still exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import parse
from processes import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import record_terminal
from record_terminal import COMMANDS, PAGE, Recording, page, recorded, screen


def recordings(text: str) -> tuple[list[Recording], str]:
    """What a page shows, and its machine."""
    (block,) = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^\$ (.+)\n", block, flags=re.MULTILINE)[1:]
    shown = dict(zip(parts[::2], (part.strip("\n") for part in parts[1::2]), strict=True))
    rows = re.findall(r"^\| `(.+)` \| (\d+) s \| (\d+) s \|$", text, re.MULTILINE)
    (machine,) = re.findall(r"^Measured on (.+):$", text, re.MULTILINE)
    return [Recording(name, shown[name], float(a), float(b)) for name, a, b in rows], machine


def test_the_page_is_what_the_script_writes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found, machine = recordings(text)
    assert page(found, machine) == text
    assert (PAGE.parent / "newcomer.png").is_file()
    assert tuple(each.command for each in found) == COMMANDS
    assert len(COMMANDS) <= 3


def test_the_commands_exist_and_follow_one_another() -> None:
    _, erase, looked = recordings(PAGE.read_text(encoding="utf-8"))[0]
    for each in (erase, looked):
        parse(shlex.join(shlex.split(each.command.removeprefix(".venv/bin/"))))
    next_command = re.findall(r"^next: (.+)$", erase.shown, re.MULTILINE)
    assert [f".venv/bin/{command}" for command in next_command] == [looked.command]
    assert record_terminal.SHEET in erase.shown


def test_the_edit_was_accepted_and_its_concept_forgotten() -> None:
    """Against the scores that the recording itself shows."""
    _, erase, scored = recordings(PAGE.read_text(encoding="utf-8"))[0]
    assert re.findall(r"^(forgotten|kept): .*: (\w+)$", erase.shown, re.MULTILINE) == [
        ("forgotten", "pass"),
        ("kept", "pass"),
    ]
    scores = dict(re.findall(r"^ (forget|retain) +\d+ % \(.+?\) +(\d+) %", scored.shown, re.M))
    assert int(scores["forget"]) > 80
    assert int(scores["retain"]) > 80


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("a\r\nb\r\n", "a\nb"),
        ("10 %\r100 %\r\n", "100 %"),
        ("working\r\x1b[2Kdone\r\n", "done"),
        ("\x1b[32m✓\x1b[0m one\r\ntwo\r\n\x1b[?25l", "✓ one\ntwo"),
        ("one\r\ntwo\x1b[1A\r\x1b[2Kthree\r\n\r\nend", "three\ntwo\nend"),
        ("a longer line\rab\x1b[K", "ab"),
    ],
)
def test_a_screen_shows_what_was_drawn_last(output: str, shown: str) -> None:
    assert screen(output) == shown


def test_a_command_runs_in_a_terminal_of_a_newcomer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGET_STEPS", "1")
    (tmp_path / "forget").mkdir()
    command = "tty >/dev/null && stty size && pwd && env | grep -c ^FORGET_; echo $HOME"
    done = recorded(command, tmp_path / "forget")
    assert done.shown.splitlines() == [
        f"24 {record_terminal.COLUMNS}", str(tmp_path / "forget"), "0", str(tmp_path / "home"),
    ]  # fmt: skip
    assert done.cpu_seconds >= 0 and 0 < done.seconds < 60
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        recorded("exit 3", tmp_path / "forget")
