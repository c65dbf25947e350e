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
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from processes import ROOT, Run

GONE = "gone"
TERMINAL = (
    "COLUMNS",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "PY_COLORS",
    "TERMINAL_WIDTH",
    "GITHUB_ACTIONS",
)
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


class Server:
    """The process that has torch loaded. Each command is a fork of it.

    It can mount file systems, where only it and its commands see that.

    Args:
        scratch: a folder, to find out whether file systems can be mounted.
    """

    def __init__(self, scratch: Path) -> None:
        launcher = next((words for words in ALONE if can_mount(words, scratch)), [])
        self.mounts = bool(launcher)
        environment = {
            **{name: value for name, value in os.environ.items() if not of_developer(name)},
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "PYTHONUTF8": "1",
            "OMP_NUM_THREADS": "1",
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

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class Forks:
    """Runs commands, one at a time, with a cache of their own.

    Args:
        server: what the commands are forked from.
        scratch: a folder for the streams and the cache.
    """

    def __init__(self, server: Server, scratch: Path) -> None:
        self.server, self.scratch = server, scratch
        self.environment = {"FORGET_CACHE_DIR": str(scratch / "cache")}

    def __call__(
        self,
        cwd: Path,
        *arguments: str | Path,
        strike: Any = None,
        limit: int | None = None,
        stdout: Path | str | None = None,
        stderr: Path | None = None,
        ranks: int = 1,
        **environment: str,
    ) -> Told:
        """``forget`` with arguments, to its end.

        The edits of a comparison are forked as well.

        Args:
            strike: what happens in it: something from `faults`.
            ranks: processes of one run, in the environment that ``accelerate launch`` would give
                them. The streams are those of the first; the exit code is the first that is not 0.
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
        for path in self.scratch.glob("*.[0-9]"):  # the streams of other processes of a run
            path.unlink()
        code = self.server.ask(
            arguments=list(map(str, arguments)),
            cwd=cwd,
            streams=streams,
            limit=limit,
            ranks=ranks,
            environment={**self.environment, **environment},
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
        done = self.server.ask(
            here=list(map(str, arguments)),
            cwd=cwd,
            environment={**self.environment, **environment},
        )
        assert done["code"] == 0

    def mount(self, folder: Path, **options: str | int) -> Path:
        """A file system in memory at `folder`, or its options changed; the path at which other
        processes see it.

        The test is skipped where the system does not let us.
        """
        if not self.server.mounts:
            pytest.skip("no file system can be mounted here: neither root nor user namespaces")
        fault = self.server.ask(
            mount=folder, options=",".join(f"{k}={v}" if v != "" else k for k, v in options.items())
        )["fault"]
        assert not fault, fault
        return Path(f"/proc/{self.server.process.pid}/root{folder}")

    def draw_up(self, folder: Path) -> None:
        """The tiny pipeline, made in the server: the test itself needs no torch."""
        self.server.ask(tiny=folder)


@contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    """A server for the length of a `with`."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    server = Server(scratch)
    try:
        yield server
    finally:
        server.close()


def of_developer(name: str) -> bool:
    """Whether a variable of the environment is not for the tests to see."""
    return name.startswith("FORGET_") or name in TERMINAL


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
        else:
            answer = {"code": _commands(job)}
        print(json.dumps(answer), flush=True)
    return 0


def _commands(job: dict) -> int:
    """Fork each process of a run: the first exit code that is not 0, else 0."""
    children = []
    port = _free_port() if job["ranks"] > 1 else 0
    for rank in range(job["ranks"]):
        if (pid := os.fork()) == 0:
            if port:
                _become_rank(job, rank, port)
            _command(job)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return next((code for code in codes if code), 0)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _become_rank(job: dict, rank: int, port: int) -> None:
    """The variables of ``accelerate launch``; all but the first process have streams of their
    own.
    """
    job["environment"] |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(job["ranks"]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if rank:
        job["streams"] = [f"{path}.{rank}" for path in job["streams"]]


def _run_in_fork(command: Sequence[str]) -> tuple[int, str, str]:
    """In place of a comparison's own: ``python -P -m forgetcli …`` as a fork."""
    from forgetcli.cli import main
    from forgetcli.experiments.comparison import edits

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if (pid := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            environment = edits._environment()
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["forget", *command[4:]]
            _end(main)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


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
    sys.argv = ["forget", *job["here"]]
    with patch.dict(os.environ, job["environment"]), contextlib.redirect_stdout(sys.stderr):
        return main()


def _command(job: dict) -> NoReturn:
    """In the forked process: become ``forget`` with these arguments."""
    import resource

    import faults
    from huggingface_hub import constants

    from forgetcli.cli import main
    from forgetcli.experiments.comparison import edits

    signal.alarm(PATIENCE)  # it hangs: killed, which no exit code looks like
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    if {"HF_HOME", "HF_ENDPOINT"} & set(job["environment"]):
        importlib.reload(constants)  # the hub's client has read its variables when it was imported
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
    edits._run = _run_in_fork
    _end(main)


def _end(main: Callable[[], int]) -> NoReturn:
    """Run `main` and leave with its exit code."""
    code = 99
    try:
        code = main()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:  # main() never raises: say so, not as the server
        traceback.print_exc()
    os._exit(code)  # taking down torch's modules copies all their pages


if __name__ == "__main__":
    sys.exit(serve())
