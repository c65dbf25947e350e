"""Progress on stderr: bars on a terminal, else a line every few seconds. Silences libraries."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.cli.errors import debugging
from forgetcli.cli.visible import one_line
from forgetcli.cli.wrapping import wrapped
from forgetcli.errors import counted
from forgetcli.progress import Observer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 5.0
SPINNER_WIDTH = 2  # columns, with the space after it
LONGEST_BAR, SHORTEST_BAR = 24, 6  # columns
SHORTEST_NAME = 12  # columns of a stage's name, before what follows it is left out


@contextmanager
def showing() -> Iterator[Observer]:
    """The observer that suits stderr; its bars are closed at the end."""
    observer: Bars | Lines = Bars() if sys.stderr.isatty() else Lines()
    try:
        if isinstance(observer, Bars):
            observer.wait()
        yield observer
    finally:
        observer.stop()


class Bars:
    """A bar for the current stage, with time left and figures; a line for each finished stage."""

    def __init__(self, console: Console | None = None) -> None:
        # Imported here: every command imports this module, and few show a bar.
        from rich.console import Console
        from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table
        from rich.text import Text

        terminal = self.console = console or Console(stderr=True, highlight=False)

        class OneLine(ProgressColumn):
            """All that follows the spinner, in one line: rich would wrap cells that do not fit."""

            def render(self, task: Task) -> Table:
                steps, total = int(task.completed), task.total
                # Rich's own time left is estimated from the last 30 s, in which a slow stage may
                # not finish two steps.
                left = time_left(task.completed, total, task.elapsed or 0.0)
                name, length, end = parts_of_line(
                    terminal.width - SPINNER_WIDTH,
                    task.description,
                    f"{steps:>{len(str(int(total)))}}/{int(total)}" if total else "",
                    left,
                    task.fields["figures"],
                )
                line = Table.grid(padding=(0, 1, 0, 0))
                bar = ProgressBar(total, task.completed, length, pulse=total is None)
                line.add_row(Text(name), *([bar] if length else []), Text(end, no_wrap=True))
                return line

        self.progress = Progress(
            SpinnerColumn(),
            OneLine(Column(no_wrap=True)),
            console=self.console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.name = ""
        self.start = 0.0

    def wait(self) -> None:
        """A spinner until the first stage: loading the libraries takes seconds."""
        self.progress.start()
        self.task = self.progress.add_task("starting", total=None, figures="")

    def stage(self, name: str, total: int | None = None) -> None:
        self.done()
        self.progress.start()
        self.name, self.start = one_line(name), time.monotonic()
        self.task = self.progress.add_task(self.name, total=total, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        if self.task is not None:
            self.progress.update(self.task, advance=steps)
            if figures:
                self.progress.update(self.task, figures=in_words(figures))

    def note(self, message: str) -> None:
        text = wrapped(one_line(message), self.console.width)
        self.progress.console.print(text, markup=False, soft_wrap=True)

    def done(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            figures = self.progress.tasks[-1].fields["figures"]
            self.progress.remove_task(task)
            if not self.name:  # it only waited
                return
            line = f"✓ {self.name}  {duration(time.monotonic() - self.start)}  {figures}".rstrip()
            self.progress.console.print(line, style="dim", markup=False, soft_wrap=True)

    def stop(self) -> None:
        self.progress.stop()


class Lines:
    """Plain lines: at the start and end of a stage, and one per `SECONDS_BETWEEN_LINES` between."""

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write = write or _to_stderr
        self.clock = clock
        self.name = ""
        self.total: int | None = None
        self.steps = 0
        self.figures: dict[str, float] = {}
        self.start = self.last = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        self.done()
        self.name, self.total, self.steps, self.figures = one_line(name), total, 0, {}
        self.start = self.last = self.clock()
        self.write(f"{self.name} …" if total is None else f"{self.name}: {counted(total, 'step')}")

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps
        self.figures |= figures
        now = self.clock()
        if self.name and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self.write(
                "  ".join(
                    filter(
                        None,
                        (f"{self.name}: {self._count()}", in_words(self.figures), self._left(now)),
                    )
                )
            )

    def note(self, message: str) -> None:
        self.write(one_line(message))

    def done(self) -> None:
        if self.name:
            spent = duration(self.clock() - self.start)
            self.write(
                "  ".join(filter(None, (f"{self.name}: done in {spent}", in_words(self.figures))))
            )
            self.name = ""

    def stop(self) -> None:
        """Drop the current stage: an interrupted stage is not reported as done."""
        self.name = ""

    def _count(self) -> str:
        return f"{self.steps}/{self.total}" if self.total else str(self.steps)

    def _left(self, now: float) -> str:
        return time_left(self.steps, self.total, now - self.start)


def parts_of_line(width: int, name: str, *facts: str) -> tuple[str, int, str]:
    """What of a line of progress fits `width` columns: name, length of the bar (0: none), facts.

    The bar is shortened first, then the name; the last facts are left out where they would leave
    the name no room.
    """
    shown = [fact for fact in facts if fact]
    while shown and width - len("  ".join(shown)) - 1 < min(len(name), SHORTEST_NAME):
        shown.pop()
    end = "  ".join(shown)
    room = width - len(end) - 1
    bar = min(LONGEST_BAR, room - len(name) - 1)
    if len(name) > room:
        name = name[: room - 1] + "…"
    return name, bar if bar >= SHORTEST_BAR else 0, end


def opening(names: Sequence[str], output: Path, estimate: float | None = None) -> str:
    """What an edit will do and how long it takes: as long as the one that it replaces, or as
    estimated.
    """
    # Imported here: loads torch, which the edit needs as well.
    from forgetcli.pipeline.apply import last_seconds

    line = f"{counted(len(names), 'stage')}: {', '.join(names)}"
    last = last_seconds(output)
    if last is not None:
        return f"{line}; the edit that is now in {output} took {duration(last)}"
    if estimate is None:
        return line
    return f"{line}; about {f'{estimate:.0f} s' if estimate < 60 else duration(estimate)}"


def time_left(steps: float, total: float | None, seconds: float) -> str:
    """``about 2 min 05 s left``, once a step is finished; empty before, and at the end."""
    if not total or not 0 < steps < total:
        return ""
    return f"about {duration(seconds / steps * (total - steps))} left"


def in_words(figures: dict[str, float]) -> str:
    """``loss 0.012  drift 3e-06``."""
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())


def duration(seconds: float) -> str:
    """``3.2 s``, ``4 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def silence_libraries() -> None:
    """Keep the hub's, transformers' and diffusers' bars, log lines and warnings off the terminal;
    not when debugging.

    Call it before they are imported: the hub reads its variable once. It imports neither of them,
    because `revert` and `export` need neither, and both take seconds. What loads them turns their
    bars off (`quiet_libraries`).
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns about forks
    if debugging():
        return
    silence_hub()
    os.environ["TRANSFORMERS_VERBOSITY"] = os.environ["DIFFUSERS_VERBOSITY"] = "error"
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    warnings.filterwarnings("ignore")
    # Imported here, as every command imports this module, and few load a library.
    import logging

    for name in ("transformers", "diffusers", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("diffusers.utils.logging", "transformers.utils.logging"):
        if loaded := sys.modules.get(name):
            loaded.set_verbosity_error()
            loaded.disable_progress_bar()


def silence_hub() -> None:
    """Keep the hub silent, for commands that fetch a model's files and load no library."""
    import logging

    if not debugging():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # an observer never raises
        print(line, file=sys.stderr, flush=True)
