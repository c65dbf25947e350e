"""Progress of long work. The library calls an `Observer`; only `cli/` knows rich."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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


class Stages:
    """An observer that says which stage of how many a step belongs to: ``2/4 editing: refinement``.

    Args:
        observer: gets every call, with numbered names.
        names: of all stages, in the order in which they come. One may be left out.
        opening: a line above the first stage, which comes after the checks of the arguments.
    """

    def __init__(self, observer: Observer, names: Sequence[str], opening: str = "") -> None:
        self._observer = observer
        self._opening = opening
        self._names = tuple(names)
        self._name = self._head = ""

    def enter(self, name: str) -> None:
        """The stage of this name begins; its steps follow."""
        if self._opening:
            self.note(self._opening)
            self._opening = ""
        place = self._names.index(name) + 1
        self._name, self._head = name, f"{place}/{len(self._names)} {name}"

    def stage(self, name: str, total: int | None = None) -> None:
        steps = "" if name == self._name else f": {name}"
        self._observer.stage(f"{self._head}{steps}" if self._head else name, total)

    def advance(self, steps: int = 1, **figures: float) -> None:
        self._observer.advance(steps, **figures)

    def note(self, message: str) -> None:
        self._observer.note(message)

    def done(self) -> None:
        self._observer.done()


def enter(observer: Observer, name: str, *, alone: bool = False) -> None:
    """Begin a stage, where the observer numbers stages; nothing for one that does not.

    Args:
        alone: it has no steps of its own that will be reported.
    """
    if isinstance(observer, Stages):
        observer.enter(name)
        if alone:
            observer.stage(name)


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
