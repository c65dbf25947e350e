"""Progress of long work. The library calls an `Observer`; only `cli/` knows rich."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Observer(Protocol):
    """Receives progress. Every call is cheap and none may raise."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins, of `total` steps where known; the one before it is done."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """`steps` more of the current stage are done; `figures` are shown beside the bar
        (loss=0.12).
        """

    def note(self, message: str) -> None:
        """A line worth reading, above the bar."""

    def done(self) -> None:
        """The last stage is over."""


class Silent:
    """An observer that says nothing: the default for library use."""

    def stage(self, name: str, total: int | None = None) -> None: ...
    def advance(self, steps: int = 1, **figures: float) -> None: ...
    def note(self, message: str) -> None: ...
    def done(self) -> None: ...


class Stopwatch:
    """Seconds by stage, for the `seconds` object of every result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """Stages in the order they ran, and `total`; seconds, rounded to milliseconds."""
        total = time.perf_counter() - self._start
        return {
            "total": round(total, 3),
            **{name: round(value, 3) for name, value in self.seconds.items()},
        }
