"""Faults on demand: the Nth call to the file system fails, then the N+1st, until nothing is left to fail."""
from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from forgetcli import store

WATCHED = ((os, "mkdir"), (os, "open"), (os, "write"), (os, "fsync"), (os, "rename"), (os, "replace"),
           (shutil, "copyfileobj"), (store, "_exchange"))
OPEN = open


class Saboteur:
    """Raises `fault` at the `at`-th watched call: instead of it, or just `after` it (as a signal would).

    Clearing up (`shutil.rmtree`, `os.unlink`) is not failed as well: it can leave something behind then, as a killed
    run can.
    """

    def __init__(self, at: int, fault: Callable[[], BaseException], after: bool = False) -> None:
        self.at, self.fault, self.after = at, fault, after
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
            if real is OPEN and not set("wxa+") & set(str(kwargs.get("mode", args[1] if len(args) > 1 else "r"))):
                return real(*args, **kwargs)                          # reading
            if "dir_fd" in kwargs:
                return real(*args, **kwargs)                          # rmtree
            self.calls.append(name)
            due = len(self.calls) == self.at
            if due and not self.after:
                raise self.fault()
            result = None if name == "fsync" else real(*args, **kwargs)  # a real one would take most of the tests' time
            if due:
                raise self.fault()
            return result

        return call


def tree(folder: Path) -> dict[str, bytes] | None:
    """Every file below `folder`, or None if there is no such folder."""
    if not folder.exists():
        return None
    return {path: (folder / path).read_bytes() for path in store.walk_files(folder)}
