"""Faults on demand: the Nth call to the file system fails, then the N+1st, until nothing is left to
fail.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forgetcli.storage import atomic
from forgetcli.storage.files import walk_files

WATCHED = (
    (os, "mkdir"),
    (os, "open"),
    (os, "write"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (shutil, "copyfileobj"),
    (atomic, "_exchange"),
)
OPEN, OS_OPEN, OS_WRITE = open, os.open, os.write
_armed: list = []


class Saboteur:
    """Raises `fault` at the `at`-th watched call: instead of it, or just `after` it (as a signal
    would).

    Clearing up (`shutil.rmtree`, `os.unlink`) is not failed as well: it can leave something behind
    then, as a killed
    run can.
    """

    def __init__(
        self,
        at: int,
        fault: Callable[[], BaseException],
        after: bool = False,
        only: tuple[str, ...] | None = None,
        short: bool = False,
    ) -> None:
        self.at, self.fault, self.after = at, fault, after
        self.only, self.short = only, short
        self.calls: list[str] = []

    @property
    def struck(self) -> bool:
        """Whether there were so many calls. A fault can strike and yet be without consequence."""
        return len(self.calls) >= self.at

    @contextmanager
    def at_work(self):
        kept = [(owner, name, getattr(owner, name)) for owner, name in WATCHED]
        kept += [(builtins, "open", builtins.open), (io, "open", io.open)]
        try:
            for owner, name, real in kept:
                setattr(owner, name, self._watched(name, real))
            yield self
        finally:
            for owner, name, real in kept:
                setattr(owner, name, real)

    def _watched(self, name: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            if real is OPEN and not set("wxa+") & set(
                str(kwargs.get("mode", args[1] if len(args) > 1 else "r"))
            ):
                return real(*args, **kwargs)  # reading
            if real is OS_OPEN and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*args, **kwargs)  # reading, or a folder to be synced
            if "dir_fd" in kwargs:
                return real(*args, **kwargs)  # rmtree
            if self.only and name not in self.only:
                return real(*args, **kwargs) if name != "fsync" else None
            self.calls.append(name)
            due = len(self.calls) == self.at
            if due and self.short:
                _half(name, *args)
            if due and not self.after:
                raise self.fault()
            result = (
                None if name == "fsync" else real(*args, **kwargs)
            )  # a real one would take most of the tests' time
            if due:
                raise self.fault()
            return result

        return call


def _half(name: str, *args) -> None:
    """Half of what a call would write."""
    if name == "write":
        handle, data = args
        OS_WRITE(handle, bytes(data)[: len(data) // 2])
    else:
        reader, writer = args[:2]
        writer.write(reader.read(os.fstat(reader.fileno()).st_size // 2))


def tree(folder: Path) -> dict[str, bytes] | None:
    """Every file below `folder`, or None if there is no such folder."""
    if not folder.exists():
        return None
    return {path: (folder / path).read_bytes() for path in walk_files(folder)}


@dataclass(frozen=True)
class Strike:
    """At the `nth` call of a function: a signal to the process itself, or a fault of the disk; the
    function itself may be
    the last thing done before it.

    Attributes:
        where: ``module:name``, a dotted name for a method. The module is the one in which the name
            is looked up.
        what: ``SIGINT``, ``SIGTERM``, ``SIGKILL``, or the name of an errno.
    """

    where: str
    what: str = "SIGINT"
    nth: int = 1
    after: bool = False

    @property
    def fields(self) -> tuple:
        return self.where, self.what, self.nth, self.after

    def arm(self, record: str) -> None:
        """Set it up in this process; when it has struck, `record` is a file that says so."""
        module, _, name = self.where.partition(":")
        owner = importlib.import_module(module)
        *parts, name = name.split(".")
        for part in parts:
            owner = getattr(owner, part)
        real, calls = getattr(owner, name), itertools.count(1)

        def call(*args, **kwargs):
            due = next(calls) == self.nth
            if due and not self.after:
                strike(self.what, record, self.where)
            result = real(*args, **kwargs)
            if due and self.after:
                strike(self.what, record, self.where)
            return result

        setattr(owner, name, call)


@dataclass(frozen=True)
class Unsafe(Strike):
    """The same in a forget that writes in place, folders and files: the control of what finds
    something half-written.
    """

    def arm(self, record: str) -> None:
        @contextmanager
        def publishing(output: Path, *, force: bool):
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            yield output

        def write(path: Path, data: bytes) -> None:
            with OPEN(path, "wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                os.replace(path, path)
                file.write(data[len(data) // 2 :])

        atomic.publishing, atomic.write_atomically = publishing, write
        super().arm(record)


@dataclass(frozen=True)
class Sweep:
    """The `nth` of all the calls to the file system that `Saboteur` watches fails, or gets a
    signal.

    Two more faults are of some calls only, and `nth` counts these: ``SHORT``, of which a write puts
    half of its bytes on a disk that is full then, and ``FSYNC``, which fails with EIO.
    """

    nth: int
    what: str = "ENOSPC"
    after: bool = False

    def arm(self, record: str) -> None:
        only = {"SHORT": ("write", "copyfileobj"), "FSYNC": ("fsync",)}.get(self.what)
        number = {"SHORT": "ENOSPC", "FSYNC": "EIO"}.get(self.what, self.what)
        saboteur = Saboteur(self.nth, lambda: None, self.after, only, self.what == "SHORT")
        saboteur.fault = lambda: strike(number, record, f"{self.nth} {saboteur.calls[-1]}")
        work = saboteur.at_work()
        work.__enter__()
        _armed.append(work)  # what is collected puts the real functions back


def strike(what: str, record: str, where: str) -> BaseException:
    handle = OS_OPEN(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    OS_WRITE(handle, f"{where}\n".encode())
    os.close(handle)
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
        time.sleep(10)  # the handler raises before this begins
    number = getattr(errno, what)
    raise OSError(number, os.strerror(number))
