"""Write completions/: the scripts with which bash, zsh and fish complete `forget`.

    python scripts/completions.py

The scripts ask `forget` for completions, so they change only when typer changes the protocol.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "completions"
FILES = {"bash": "forget.bash", "zsh": "_forget", "fish": "forget.fish"}


def script(shell: str) -> str:
    """The completion script for `shell`, as typer writes it on request."""
    asked = subprocess.run(
        [sys.executable, "-m", "forgetcli"],
        env={**os.environ, "_FORGET_COMPLETE": f"source_{shell}"},
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.strip() + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (FOLDER / name).write_text(script(shell), encoding="utf-8")
