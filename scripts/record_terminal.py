"""Record a newcomer's terminal: from a fresh environment to an edited model that was looked at.

    python scripts/record_terminal.py --machine "two cores"

Unpacks the last commit into a temporary folder, runs `COMMANDS` there one after the other in a
terminal of 80 columns, and writes what the terminal shows into docs/newcomer.md, with the seconds
that each command took, and the images into docs/newcomer.png. Nothing is edited by hand. The
installation needs the network, or a folder of wheels that pip knows.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "newcomer.md"
IMAGES = ROOT / "docs" / "newcomer.png"
COLUMNS = 80
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install --quiet .",
    '.venv/bin/forget erase "van gogh"',
    ".venv/bin/forget eval edited",
)
SHEET = "edited-images/before_after.png"  # what the second command says to look at
INTRODUCTION = """\
# A newcomer's terminal

Three commands, from a checkout to an edited model that has been looked at and scored. This is a
recording, made by `python scripts/record_terminal.py` in a fresh environment with empty caches;
lines that a progress bar draws over are shown as they were last.
"""
_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]")


@dataclass(frozen=True)
class Recording:
    """One command.

    Attributes:
        shown: what the terminal shows after it.
        seconds: by the clock.
        cpu_seconds: of all its processes.
    """

    command: str
    shown: str
    seconds: float
    cpu_seconds: float


def recorded(command: str, folder: Path) -> Recording:
    """Run a command in a terminal.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    started = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, stdin=inner, stdout=inner, stderr=inner,
        env=environment(folder), start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    output = bytearray()
    while True:
        try:
            read = os.read(outer, 1 << 16)
        except OSError:  # Linux reports the end of a terminal so.
            break
        if not read:
            break
        output += read
    os.close(outer)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    text = screen(output.decode("utf-8"))
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise subprocess.CalledProcessError(code, command, text)
    return Recording(command, text, seconds, usage.ru_utime + usage.ru_stime)


def environment(folder: Path) -> dict[str, str]:
    """A newcomer's: a home without caches, no variables of forget's or of a virtual environment."""
    of_developer = ("FORGET_", "HF_", "PYTHON", "VIRTUAL_ENV", "COLUMNS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(of_developer)}
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    cache = {"XDG_CACHE_HOME": str(home / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**kept, **cache, "HOME": str(home), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


def screen(output: str) -> str:
    """The text that a terminal shows after this output: progress bars as they were drawn last.

    Knows what rich and pip write: colours, carriage returns, erased lines, and moves up and down.
    """
    lines: list[list[str]] = [[]]
    row = column = at = 0
    while at < len(output):
        sequence = _SEQUENCE.match(output, at)
        if sequence:
            at = sequence.end()
            arguments, name = sequence.group(1) or "", sequence.group(2)
            count = int(arguments) if arguments.isdigit() else 1
            if name == "K":
                kept = 0 if arguments == "2" else column
                lines[row] = lines[row][:kept]
            elif name == "A":
                row = max(0, row - count)
            elif name == "B":
                row += count
            elif name == "G":
                column = count - 1
        else:
            letter = output[at]
            at += 1
            if letter == "\r":
                column = 0
            elif letter == "\n":
                row += 1
            elif letter >= " ":
                line = lines[row]
                line += [" "] * (column - len(line))
                line[column : column + 1] = letter
                column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return "\n".join("".join(line).rstrip() for line in lines).strip("\n")


def page(recordings: list[Recording], machine: str) -> str:
    """The text of docs/newcomer.md."""
    shown = "\n\n".join(f"$ {each.command}\n{each.shown}".rstrip() for each in recordings)
    rows = [
        f"| `{each.command}` | {each.seconds:.0f} s | {each.cpu_seconds:.0f} s |"
        for each in recordings
    ]
    return "\n".join(
        [
            INTRODUCTION,
            "```text",
            shown,
            "```",
            "",
            f"![What the second command generates: unedited and edited]({IMAGES.name})",
            "",
            f"Measured on {machine}:",
            "",
            "| command | by the clock | processor time |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", required=True, help="the machine, in words, for the page")
    machine = parser.parse_args().machine
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "forget"
        folder.mkdir()
        archive = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        recordings = []
        for command in COMMANDS:
            print(command, file=sys.stderr, flush=True)
            recordings.append(recorded(command, folder))
        shutil.copyfile(folder / SHEET, IMAGES)
    PAGE.write_text(page(recordings, machine), encoding="utf-8")


if __name__ == "__main__":
    main()
