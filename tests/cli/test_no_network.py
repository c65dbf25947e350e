"""Offline no command opens a connection or asks DNS: the system calls of real processes say so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipelines import tiny_sd
from processes import ROOT
from tiny_runs import EVAL, RECIPE, apply

STRACE = shutil.which("strace")
# A connection to anything but this machine, or a question to a name server (port 53).
OUTWARD = re.compile(r"sa_family=AF_INET6?,")
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
PORT_53 = re.compile(r"htons\(53\)")
pytestmark = pytest.mark.skipif(STRACE is None, reason="needs strace")


def outward(trace: str) -> list[str]:
    """The calls of a trace that reach another machine or a name server."""
    return [
        line
        for line in trace.splitlines()
        if OUTWARD.search(line) and (PORT_53.search(line) or not LOOPBACK.search(line))
    ]


def traced(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, error output and trace of a Python process and its children."""
    log = folder / "trace"
    done = subprocess.run(
        [
            STRACE or "",
            "-f",
            "--seccomp-bpf",  # stop at these calls only
            "-qq",
            "-e",
            "trace=connect,sendto,sendmsg,sendmmsg",
            "-o",
            str(log),
            sys.executable,
            *words,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if "Operation not permitted" in done.stderr and not log.exists():
        pytest.skip("strace may not trace here")
    return done.returncode, done.stderr, log.read_text(errors="replace")


def test_no_command_leaves_this_machine(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "sd")
    (tmp_path / "art.toml").write_text(RECIPE)
    # One process for all: what a library opens at import or at exit is traced as well.
    steps = [
        [*apply(Path(), "--model", "sd", "--set", "refine.mode=copy", "--lenient", "-q")],
        ["generate", "a cat", "--model", "edited", "--steps", "1", "-o", "images", "-q"],
        ["verify", "edited", "-q"],
        [*EVAL, "-q"],
    ]
    program = (
        "import sys\n"
        "from forgetcli.cli import main\n"
        f"for words in {[list(map(str, step)) for step in steps]!r}:\n"
        "    sys.argv = ['forget', *words]\n"
        "    code = main()\n"
        "    assert code == 0, (words, code)\n"
    )
    code, errors, trace = traced(tmp_path, "-c", program)
    assert code == 0, errors
    assert outward(trace) == []


def test_a_connection_and_a_question_to_a_name_server_are_seen(tmp_path: Path) -> None:
    """The control: the same trace of a process that does both, to addresses that do not answer."""
    program = (
        "import socket\n"
        "s = socket.socket(); s.settimeout(0.1)\n"
        "try: s.connect(('192.0.2.1', 80))\n"
        "except OSError: pass\n"
        "try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.53', 53))\n"
        "except OSError: pass\n"
        "try: socket.create_connection(('127.0.0.1', 9), 0.1)\n"
        "except OSError: pass\n"
    )
    _, _, trace = traced(tmp_path, "-c", program)
    assert len(outward(trace)) == 2
