"""forget and Python as processes, for tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ERROR_LINE = re.compile(r"error\[[a-z.-]+\]: [^\n]+\n(hint: [^\n]+\n)?")


@dataclass(frozen=True)
class Run:
    """A finished process."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def python(
    script: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess:
    """Run a Python script in which the package can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        **options,
    )
