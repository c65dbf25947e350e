"""Claims: a command's own temporary folder goes with it, and that of a killed run with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT

from forgetcli.errors import OutputError
from forgetcli.storage.scratch import scratch

if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

HOLDER = """
import sys
from forgetcli.storage.scratch import scratch
with scratch("test") as folder:
    (folder / "large").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder() -> subprocess.Popen:
    """A process within the block; its folder has been made."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline()
    return process


def ended(process: subprocess.Popen, end: Callable[[], None]) -> None:
    end()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()


def test_it_goes_with_the_block(place: Path) -> None:
    with scratch("test") as folder:
        assert folder.is_dir() and not any(folder.iterdir())
        assert folder.is_relative_to(place) and folder.parent.stat().st_mode & 0o077 == 0
        (folder / "file").touch()
    with pytest.raises(ValueError, match="mine"), scratch("test"):
        raise ValueError("mine")
    assert not any(place.iterdir())


def test_the_next_run_removes_what_a_killed_one_left(place: Path) -> None:
    process = holder()
    ended(process, lambda: process.send_signal(signal.SIGKILL))
    (left,) = place.iterdir()  # the control: kill -9 leaves it
    with scratch("other"):  # also the next run of another command
        assert not left.exists()
    assert not any(place.iterdir())


def test_the_folder_of_a_living_run_stays(place: Path) -> None:
    process = holder()
    (left,) = place.iterdir()
    with scratch("test"):
        assert (left / "new/large").is_file()
    ended(process, process.stdin.close)
    assert not any(place.iterdir())


def test_only_its_own_folders_are_removed(place: Path) -> None:
    name = ".forget-test.1-0123abcd.tmp"
    (place / "mine").mkdir()
    (place / "mine" / "file").touch()
    (place / name).symlink_to(place / "mine")
    (place / ".other.1-0123abcd.tmp").mkdir()
    (place / ".other.1-0123abcd.tmp" / "file").touch()
    with scratch("test"):
        pass
    assert (place / "mine/file").exists() and (place / name).is_symlink()
    assert (place / ".other.1-0123abcd.tmp/file").exists()


def test_a_folder_that_cannot_be_made_is_a_named_error(place: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OutputError) as refused, scratch("test"):
        pass
    assert refused.value.code == "output.disk-full" and "TMPDIR" in refused.value.hint
