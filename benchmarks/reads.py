"""How often `apply`, `verify` and `eval` read manifests, safetensors headers and tensors.

    python benchmarks/reads.py [--json]

Each command runs once on the embedded model, in a process of its own, with one refinement step and
one sampler step: how often files are read does not depend on these. Python reports every file that
is opened to be read, and the function of forget that opened it. Files that the safetensors library
maps itself, to load a pipeline, are not counted.

    manifest      forget.provenance.json opened
    header        the header of a safetensors file read, and how many different files that were
    base tensor   one tensor of the base model read from its file
    other tensor  one tensor of the edited model read from its file, or of the copy being edited
    whole file    a safetensors file opened otherwise: to copy it or to compute its digest
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import forgetcli

PACKAGE = Path(forgetcli.__file__).parent
MANIFEST = "forget.provenance.json"
HEADER_READERS = ("read_header", "read_metadata", "_header")
TENSOR_READERS = ("read_bytes", "read_tensor")
COUNTS = ("manifest", "header", "header files", "base tensor", "other tensor", "whole file")
COMMANDS = {
    "apply": "apply objects --model demo --output edited --lenient --set refine.steps=1",
    "verify": "verify edited",
    "eval": "eval edited --output eval --steps 1 --features none",
}


class Reads:
    """Counts the files that this process opens to read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.header_files: set[str] = set()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event != "open":
            return
        path, _, flags = arguments
        if isinstance(path, int) or flags & os.O_ACCMODE != os.O_RDONLY:
            return
        name = os.fsdecode(path)
        if name.endswith(MANIFEST):
            self.counts["manifest"] += 1
        elif name.endswith(".safetensors"):
            self._weights(name)

    def _weights(self, name: str) -> None:
        reader = calling_function()
        if reader in HEADER_READERS:
            self.counts["header"] += 1
            self.header_files.add(os.path.realpath(name))
        elif reader in TENSOR_READERS:
            base = Path(name).resolve().is_relative_to(PACKAGE)
            self.counts["base tensor" if base else "other tensor"] += 1
        else:
            self.counts["whole file"] += 1

    def report(self) -> dict[str, int]:
        counts = {**self.counts, "header files": len(self.header_files)}
        return {name: counts.get(name, 0) for name in COUNTS}


def calling_function() -> str:
    """The name of the innermost function of forget on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(str(PACKAGE)):
            return frame.f_code.co_name
        frame = frame.f_back
    return ""


def count_here(command: str, report: Path) -> None:
    """Run a command in this process and write its counts to a file."""
    from forgetcli.cli import main

    reads = Reads()
    sys.argv = ["forget", *COMMANDS[command].split(), "--quiet"]
    code = main()
    # 1 is a negative verdict: the command did all its work.
    if code not in (0, 1):
        raise SystemExit(code)
    report.write_text(json.dumps(reads.report()))


def count(command: str, folder: Path) -> dict[str, int]:
    """The counts of a command run in a process of its own, in `folder`."""
    report = folder / "counts.json"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FORGET_")},
        "PYTHONPATH": str(PACKAGE.parent),
        "FORGET_CACHE_DIR": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    script = str(Path(__file__).resolve())
    subprocess.run(
        [sys.executable, script, "--one", command, "--report", str(report)],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return json.loads(report.read_text())


def table(counts: dict[str, dict[str, int]]) -> str:
    """The counts as text: a row for each command."""
    lines = [" " * 8 + "".join(f"{name:>14}" for name in COUNTS)]
    for command, row in counts.items():
        lines.append(f"{command:<8}" + "".join(f"{row[name]:>14}" for name in COUNTS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        count_here(arguments.one, arguments.report)
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = {command: count(command, Path(folder)) for command in COMMANDS}
    print(json.dumps(counts, indent=1) if arguments.json else table(counts))


if __name__ == "__main__":
    main()
