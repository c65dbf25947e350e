"""On a terminal lines fit and words are whole; a pipe gets whole lines."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

import pytest
from processes import ROOT

pty = pytest.importorskip("pty")
import fcntl  # noqa: E402
import termios  # noqa: E402

LONG = "nowhere " * 12 + "at all"


def on_terminal(cwd: Path, columns: int, *arguments: str) -> str:
    """What ``forget`` writes to a terminal, without colours."""
    script = (
        f"import os, sys; os.chdir({str(cwd)!r}); sys.argv = ['forget', *{arguments!r}]\n"
        # The terminal has its size before anything asks for it.
        "sys.stdin.readline()\n"
        "from forgetcli.cli import main\n"
        "sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm"}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", script], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.write(terminal, b"\n")
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode().replace("\r", ""))


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    "arguments",
    [("judges", "demo"), ("recipe", "sets"), ("judges", "--help"), ("log", LONG)],
    ids=lambda words: " ".join(words)[:20],
)
def test_lines_fit_and_words_are_whole(
    forget, tmp_path: Path, arguments: tuple[str, ...], columns: int
):
    shown = on_terminal(tmp_path, columns, *arguments)
    assert max(map(len, shown.splitlines())) <= columns
    piped = forget(*arguments, COLUMNS="1000")
    words = set(re.findall(r"\w+", piped.stdout + piped.stderr))
    assert len(words) > 5 and set(re.findall(r"\w+", shown)) <= words


def test_what_is_copied_is_not_wrapped(forget, tmp_path: Path):
    whole = forget("recipe", "show", "art_styles").stdout
    assert max(map(len, whole.splitlines())) > 60
    shown = on_terminal(tmp_path, 60, "recipe", "show", "art_styles")
    assert whole.rstrip() in shown
    long = forget("log", LONG).stderr.splitlines()[0]
    assert LONG in long  # a pipe gets the error in one line
