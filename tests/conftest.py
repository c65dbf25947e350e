"""Fixtures for all tests: a clean environment, and `forget` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, Run
from recipe_example import EXAMPLE


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No FORGET_* variable of the developer's, a cache of the test's own, no network, plain
    80-column output.
    """
    for name in [name for name in os.environ if name.startswith("FORGET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORGET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (
        "COLUMNS",
        "FORCE_COLOR",
        "CLICOLOR_FORCE",
        "PY_COLORS",
        "TERMINAL_WIDTH",
        "GITHUB_ACTIONS",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture
def forget(tmp_path: Path) -> Callable[..., Run]:
    """Run ``forget`` with arguments, in `tmp_path`; keyword arguments are environment variables,
    but for `stdin`.
    """

    def run(*arguments: str | Path, stdin: str = "", **environment: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "forgetcli", *map(str, arguments)],
            input=stdin,
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
