"""forget as a process among others: exceptions, broken streams, signals."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ERROR_LINE, ROOT, python

from forgetcli.cli import errors, stdout
from forgetcli.errors import ForgetError, RecipeError

NEXT = "next: forget apply good.toml\n"  # after a recipe was validated

# exceptions


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ForgetError("model.x", "a\nb", "h"), ("model.x", "a\nb", "h")),
        (MemoryError(), ("memory", "there is not enough memory", None)),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried. More"
            ),
            ("memory", None, None),
        ),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"),
            ("memory", "CUDA out of memory", None),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y"),
            ("output.disk-full", "x/y: no space left on device", None),
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            ("output.disk-full", "disk quota exceeded", None),
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/r"),
            ("permission", "/r: permission denied", None),
        ),
        (OSError(errno.EIO, "Input/output error", "/r"), ("io", "/r: input/output error", None)),
        (
            ZeroDivisionError("division by zero"),
            ("internal", "ZeroDivisionError: division by zero", None),
        ),
    ],
)
def test_each_exception_has_its_line(error: Exception, line: tuple):
    (told,) = errors.lines_of(error)
    for found, expected in zip((told.code, told.message, told.hint), line, strict=True):
        assert expected is None or found == expected
    assert told.hint or told.code == "io"


def test_a_recipe_error_has_a_line_for_each_fault(capsys: pytest.CaptureFixture):
    faults = [ForgetError("recipe.a", "one", "h"), ForgetError("recipe.b", "two\nlines")]
    assert errors.report(RecipeError(faults)) == 2
    assert capsys.readouterr().err == "error[recipe.a]: one\nhint: h\nerror[recipe.b]: two lines\n"


def test_an_error_inside_is_one_line_and_a_traceback_when_debugging(tmp_path: Path):
    script = (
        "import sys; sys.argv = ['forget', 'env']; from forgetcli.pipeline import environment\n"
        "environment.report = lambda: 1 / 0\n"
        "from forgetcli.cli import main; sys.exit(main())"
    )
    plain = python(script)
    assert plain.returncode == 2 and plain.stdout == "" and ERROR_LINE.fullmatch(plain.stderr)
    assert (
        plain.stderr.startswith("error[internal]: ZeroDivisionError: ")
        and "FORGET_DEBUG=1" in plain.stderr
    )
    debugged = python(script, env={"FORGET_DEBUG": "1"})
    assert (
        debugged.returncode == 2
        and "Traceback" in debugged.stderr
        and "error[internal]: " in debugged.stderr
    )


# streams


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipe", "schema"],
        ["recipe", "schema", "--json"],
        ["--help"],
        ["recipe", "validate", "good.toml"],
    ],
)
def test_a_reader_that_leaves_is_no_fault(arguments: list[str], good: Path):
    reading, writing = os.pipe()
    os.close(reading)  # gone before the first byte
    try:
        done = subprocess.run(
            [sys.executable, "-m", "forgetcli", *arguments],
            check=False,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=good.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
    finally:
        os.close(writing)
    told = NEXT if "validate" in arguments else ""
    assert (done.returncode, done.stderr) == (0, told)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_a_fault(tmp_path: Path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "forgetcli", "recipe", "schema"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error[output.disk-full]: ")
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(("closed", "told"), [(">&-", NEXT), ("2>&-", ""), (">&- 2>&-", "")])
def test_closed_streams_do_not_matter(closed: str, told: str, good: Path):
    done = subprocess.run(
        f'"{sys.executable}" -m forgetcli recipe validate good.toml {closed}',
        shell=True,
        check=False,
        capture_output=True,
        text=True,
        cwd=good.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, told)


def test_the_exit_code_outlives_the_reader(monkeypatch: pytest.MonkeyPatch):
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    stdout.write("x")  # returns: the command goes on to its own exit code


# signals


def started(good: Path, *arguments: str) -> subprocess.Popen:
    """A command that waits for stdin, once it has its signal handlers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "forgetcli", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=good.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError("no signal handler was installed")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_so_in_its_code(number: int, code: int, good: Path):
    process = started(good, "generate", "-p", "-")
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == code and printed == ""
    assert ERROR_LINE.fullmatch(told) and told.startswith("error[interrupted]: stopped by ")
    assert "run the same command again" in told


def test_the_first_signal_unwinds_and_the_second_ends_at_once():
    script = (
        "import os, signal, sys, time\nfrom forgetcli.cli import signals\nsignals.install()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        "    print('unwinding', flush=True)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\nfinally:\n    print('not reached', flush=True)"
    )
    start = time.monotonic()
    done = python(script)
    assert (done.returncode, done.stdout) == (130, "unwinding\n") and time.monotonic() - start < 50


def test_ctrl_c_while_forget_is_still_loading_is_one_line_too():
    script = (
        "import os, signal, sys\nclass Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            sys.meta_path.remove(self)\n            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from forgetcli.cli import main\nsys.argv = ['forget', '--version']\nsys.exit(main())"
    )
    done = python(script)
    assert (done.returncode, done.stdout) == (130, "")
    assert (
        done.stderr.startswith("error[interrupted]: stopped by Ctrl-C")
        and done.stderr.count("\n") == 1
    )


def test_signals_that_the_parent_ignores_stay_ignored():
    script = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from forgetcli.cli import signals\nsignals.install()\n"
        "os.kill(os.getpid(), signal.SIGINT)\nprint(signals.received)"
    )
    assert python(script).stdout == "None\n"
