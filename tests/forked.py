"""`forget` as real processes that are forked from one in which torch is loaded already: that saves
seconds for each.

A forked process has its own pid, signal handlers, standard streams and end of the interpreter; a
test can have something
happen in it at an exact place (`faults.Strike`, `faults.Sweep`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from processes import ROOT, Run

GONE = "gone"
PATIENCE = 300  # seconds that a command may take
ALONE = (
    ["unshare", "--mount"],
    ["unshare", "--user", "--map-root-user", "--mount"],
)  # as root, and as another user
MODULES = (
    "forgetcli.cli.app",
    "forgetcli.pipeline.apply",
    "forgetcli.checkpoint.base",
    "forgetcli.artifact.statement",
    "forgetcli.editing.check",
    "forgetcli.models.families.sd",
    "forgetcli.methods.nullspace.edit",
    "forgetcli.editing.closed_form",
    "forgetcli.editing.refine",
    "forgetcli.evaluation",
    "forgetcli.evaluation.verdicts",
    "forgetcli.evaluation.quality",
    "forgetcli.generation.generate",
    "forgetcli.report.page",
    "forgetcli.evaluation.judges.demo",
    "forgetcli.evaluation.features.demo",
    "forgetcli.evaluation.demo_classifier",
    "safetensors.torch",
    "accelerate.utils.memory",
    "torchmetrics.image.fid",
    "torchmetrics.image.kid",
    "PIL.PngImagePlugin",
    "jinja2",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)


@dataclass(frozen=True)
class Told(Run):
    """A finished process; `struck` says what the fault that was asked for met, None if it was never
    reached.
    """

    struck: str | None = None


class Forks:
    """Runs commands, one at a time.

    Args:
        scratch: a folder for the streams.
        mounting: whether it shall `mount`, where only it and its commands see that.
    """

    def __init__(self, scratch: Path, mounting: bool) -> None:
        launcher = (
            next((words for words in ALONE if can_mount(words, scratch)), []) if mounting else []
        )
        self.scratch, self.mounts = scratch, bool(launcher)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
            "FORGET_CACHE_DIR": str(scratch / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [*launcher, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **job: Any) -> dict:
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server has died"
        return json.loads(answer)

    def __call__(
        self,
        cwd: Path,
        *arguments: str | Path,
        strike: Any = None,
        limit: int | None = None,
        stdout: Path | str | None = None,
        stderr: Path | None = None,
        **environment: str,
    ) -> Told:
        """``forget`` with arguments, to its end.

        Args:
            strike: what happens in it: something from `faults`.
            limit: bytes that no file may exceed, as ``ulimit -f`` has it.
            stdout, stderr: a device to use instead of collecting what is written; `GONE` for a pipe
                that nobody reads.
        """
        streams = [
            stdout or self.scratch / "stdout",
            stderr or self.scratch / "stderr",
            self.scratch / "struck",
        ]
        for path in streams:
            if path != GONE and path.is_file():
                path.unlink()
        code = self.ask(
            arguments=list(map(str, arguments)),
            cwd=cwd,
            streams=streams,
            limit=limit,
            environment=environment,
            strike=strike and [type(strike).__name__, asdict(strike)],
        )["code"]
        out, err, struck = (
            path.read_text() if path != GONE and path.is_file() else None for path in streams
        )
        return Told(code, out or "", err or "", struck)

    def rehearse(self, cwd: Path, *arguments: str | Path, **environment: str) -> None:
        """Run a command in the server itself, so that what it loads and remembers is there in all
        that are forked later.

        Not one that descends: autograd does not survive a fork.
        """
        assert (
            self.ask(here=list(map(str, arguments)), cwd=cwd, streams=[], environment=environment)[
                "code"
            ]
            == 0
        )

    def mount(self, folder: Path, **options: str | int) -> Path:
        """A file system in memory at `folder`, or its options changed; the path at which other
        processes see it.

        The test is skipped where the system does not let us.
        """
        if not self.mounts:
            pytest.skip("no file system can be mounted here: neither root nor user namespaces")
        fault = self.ask(
            mount=folder, options=",".join(f"{k}={v}" if v != "" else k for k, v in options.items())
        )["fault"]
        assert not fault, fault
        return Path(f"/proc/{self.process.pid}/root{folder}")

    def draw_up(self, folder: Path) -> None:
        """The tiny pipeline, made in the server: the test itself needs no torch."""
        self.ask(tiny=folder)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@contextmanager
def forks(scratch: Path, *, mounting: bool = False) -> Iterator[Forks]:
    """A server for the length of a `with`."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    server = Forks(scratch, mounting)
    try:
        yield server
    finally:
        server.close()


def can_mount(launcher: list[str], scratch: Path) -> bool:
    if not shutil.which("unshare") or not Path("/proc/self/root").exists():
        return False
    tried = subprocess.run(
        [*launcher, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch)],
        check=False,
        capture_output=True,
    )
    return tried.returncode == 0


def serve() -> int:
    """Read jobs, a line of JSON each, and answer in the same way."""
    import importlib

    from forgetcli.cli.progress import silence_libraries

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell has background jobs ignore it, and their children
    silence_libraries()
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        gc.freeze()  # a forked process' collector would copy every page
        job = json.loads(line)
        if "mount" in job:
            answer = {"fault": _mount(job["mount"], job["options"])}
        elif "tiny" in job:
            from pipelines import tiny_sd

            answer = {"folder": str(tiny_sd(Path(job["tiny"])))}
        elif "here" in job:
            answer = {"code": _rehearse(job)}
        elif (pid := os.fork()) == 0:
            _command(job)
        else:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
        print(json.dumps(answer), flush=True)
    return 0


def _mount(folder: str, options: str) -> str:
    again = "remount," if os.path.ismount(folder) else ""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stderr


def _pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _rehearse(job: dict) -> int:
    from forgetcli.cli import main

    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    sys.argv = ["forget", *job["here"]]
    with contextlib.redirect_stdout(sys.stderr):
        return main()


def _command(job: dict) -> NoReturn:
    """In the forked process: become ``forget`` with these arguments."""
    import resource

    import faults

    from forgetcli.cli import main

    signal.alarm(PATIENCE)  # it hangs: killed, which no exit code looks like
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    tempfile.tempdir = None  # the server may have looked it up already
    out, err, struck = job["streams"]
    for number, path in enumerate((os.devnull, out, err)):
        handle = (
            _pipe_without_reader()
            if path == GONE
            else os.open(path, (os.O_RDWR if number == 2 else os.O_WRONLY) | os.O_CREAT, 0o666)
        )
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = ["forget", *job["arguments"]]
    if job["limit"]:
        signal.signal(
            signal.SIGXFSZ, signal.SIG_IGN
        )  # as Python has it; a write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    if job["strike"]:
        kind, fields = job["strike"]
        getattr(faults, kind)(**fields).arm(struck)
    code = 99
    try:
        code = main()
        atexit._run_exitfuncs()
    except BaseException:  # main() never raises: say so, not as the server
        traceback.print_exc()
    os._exit(code)  # taking down torch's modules copies all their pages


if __name__ == "__main__":
    sys.exit(serve())
