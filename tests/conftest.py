"""Fixtures for all tests: a clean environment, and `forget` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from forked import Forks, Server, of_developer, serving
from processes import ROOT, Run
from recipe_example import EXAMPLE


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No FORGET_* variable of the developer's, a cache of the test's own, no network, plain
    80-column output.
    """
    for name in list(filter(of_developer, os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORGET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs time this machine for a moment only: for tests of anything but the seconds."""
    monkeypatch.setattr("forgetcli.pipeline.estimates.TIMING_SECONDS", 0.01)


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., Run]:
    """Start ``python -m forgetcli`` with arguments, in `tmp_path`; keyword arguments are
    environment variables. For what is settled when Python or a library starts; else `forget`.
    """

    def run(*arguments: str | Path, **environment: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "forgetcli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment},
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all files of a worker: what it loads takes as long as many commands. It can mount
    file systems, where it may.
    """
    with serving(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def forked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """Run ``forget`` as a fork of a process that has torch loaded, in a folder that is named."""
    return Forks(server, tmp_path_factory.mktemp("forks"))


@pytest.fixture
def forget(forked: Forks, tmp_path: Path) -> Callable[..., Run]:
    """Run ``forget`` with arguments, in `tmp_path`; keyword arguments are environment variables."""
    return partial(forked, tmp_path)
