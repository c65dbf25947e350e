"""Claims: a pipe that the user names is read to its end; one that nobody writes to is an error; a
pipe in a folder is never read.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import ROOT, Run
from tiny_runs import RECIPE

from forgetcli import recipe
from forgetcli.errors import ForgetError, ModelError, RecipeError
from forgetcli.recipe import prompt_files
from forgetcli.storage import files
from forgetcli.storage.files import is_pipe, open_regular, read_pipe

if not hasattr(os, "mkfifo"):
    pytest.skip("needs named pipes", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A read that blocks fails its test."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def held(pipe: Path) -> Iterator[Path]:
    """A pipe with a reader, so that opening it for writing does not wait."""
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield pipe
    os.close(handle)


def test_a_slow_writer_is_waited_for(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(300_000)  # several times what a pipe holds
    writer = os.open(held, os.O_WRONLY)
    waiting = threading.Event()

    def write() -> None:
        waiting.wait(30)
        for start in range(0, len(data), 100_000):
            os.write(writer, data[start : start + 100_000])
        os.close(writer)

    def select_(*handles: list[int]) -> None:
        waiting.set()  # the reader has found nothing, and waits
        select.select(*handles)

    monkeypatch.setattr(files, "select", SimpleNamespace(select=select_))
    thread = threading.Thread(target=write)
    thread.start()
    assert read_pipe(held, 300_000) == data
    thread.join()
    assert waiting.is_set()


def test_a_pipe_that_nobody_writes_to_is_an_error_and_no_wait(pipe: Path) -> None:
    with pytest.raises(ModelError) as refused:
        read_pipe(pipe, 100)
    assert (
        refused.value.code == "file.not-regular"
        and "no program has written" in refused.value.message
    )


def test_a_pipe_has_the_limit_of_a_file(held: Path) -> None:
    writer = os.open(held, os.O_WRONLY)
    os.write(writer, b"x" * 101)
    with pytest.raises(ModelError) as refused:
        read_pipe(held, 100)
    assert refused.value.code == "file.too-large"
    os.close(writer)


def test_a_pipe_that_goes_on_after_its_limit_is_too_large(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pieces, fits in (([b"x" * 100], True), ([b"x" * 100, b"x"], False)):
        rest = iter([*pieces, b""])
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "read", lambda handle, size, rest=rest: next(rest))
            if fits:
                assert read_pipe(held, 100) == b"x" * 100
            else:
                with pytest.raises(ModelError, match="larger than 100 bytes"):
                    read_pipe(held, 100)


def test_only_a_pipe_that_the_user_named_is_read(pipe: Path) -> None:
    assert is_pipe(pipe) and not is_pipe(pipe.parent) and not is_pipe(pipe / "missing")
    with pytest.raises(ModelError):
        open_regular(pipe)
    for read in (recipe.load, prompt_files.read):  # the control: not by default
        with pytest.raises((RecipeError, ForgetError)) as refused:
            read(pipe)
        assert "named pipe" in refused.value.message
    text = RECIPE.replace("[preserve]\n", '[preserve]\nfiles = ["pipe"]\n')
    (pipe.parent / "r.toml").write_text(text)
    with pytest.raises(RecipeError) as refused:
        recipe.load(pipe.parent / "r.toml", pipe=True)
    assert "named pipe" in refused.value.message


def forget(*words: str, **options) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "forgetcli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="needs /dev/stdin")
def test_a_recipe_from_the_shell(tmp_path: Path) -> None:
    """As in ``sed … my.toml | forget recipe validate /dev/stdin``."""
    run = forget("recipe", "validate", "/dev/stdin", input=RECIPE, cwd=tmp_path)
    assert run.code == 0 and run.stdout.startswith("/dev/stdin: valid"), run.stderr


def test_a_recipe_that_does_not_come_is_one_line(pipe: Path) -> None:
    run = forget("recipe", "validate", str(pipe))
    assert (run.code, run.stdout) == (2, "")
    line, hint = run.stderr.splitlines()
    assert line.startswith("error[recipe.not-found]: ") and "no program has written" in line
    assert hint.startswith("hint: ")


def test_prompts_from_a_pipe(held: Path) -> None:
    writer = os.open(held, os.O_WRONLY)
    os.write(writer, b"# three\na cat\n\na dog\n")
    os.close(writer)
    assert prompt_files.read(held, pipe=True) == [(2, "a cat"), (4, "a dog")]
