"""The tutorial's commands run as printed, in order, in one folder, on the embedded model."""

from __future__ import annotations

import shlex
from pathlib import Path

from command_blocks import commands
from forked import Forks
from processes import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"

# Smaller than the tutorial's defaults, so that the test is short. They change no command.
SMALL = {"FORGET_STEPS": "2"}


def test_every_command_of_the_tutorial_runs(forked: Forks, tmp_path: Path) -> None:
    listed = commands(TUTORIAL.read_text(encoding="utf-8"))
    assert len(listed) >= 10  # the blocks were found
    folder = tmp_path / "tutorial"
    folder.mkdir()
    for command in listed:
        program, *arguments = shlex.split(command)
        assert program == "forget", command
        done = forked(folder, *arguments, **SMALL)
        assert done.code == 0, f"{command}\n{done.stderr}"
    for written in (
        "edited/README.md",
        "look",
        "eval/report.html",
        "van-gogh-to-monet.safetensors",
    ):
        assert (folder / written).exists(), written
    base = weights(ROOT / "forgetcli" / "bundled" / "model")
    assert weights(folder / "undone") == base
    assert weights(folder / "edited") != base


def weights(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.safetensors")
        if not path.name.startswith("forget.")
    }
