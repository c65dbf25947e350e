"""Where output goes: results to stdout (for people, as JSON, or the path alone), all else to
stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetcli.cli import next_steps, progress, stdout
from forgetcli.cli.visible import one_line, visible, visible_json
from forgetcli.cli.wrapping import fitted
from forgetcli.process import distributed, threads
from forgetcli.progress import Observer, Silent, Stopwatch
from forgetcli.storage import json as plain_json

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA_VERSION = 1
PIPED_WIDTH = 160  # columns of a table that no terminal limits


class Mode(Enum):
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


class Sink:
    """One command's output. ``--json -q`` is JSON without progress.

    Args:
        command: the command's name as in ``--json``: ``recipe show``.
        threads: as ``--threads`` says.
        shared: the command shares out its work among the processes of a launcher. Of another
            command only the first process runs.
    Attributes:
        main: whether this process is the first one of its command, which reports.
    Raises:
        typer.Exit: another process runs the command.
    """

    def __init__(
        self,
        command: str,
        *,
        json: bool = False,
        quiet: bool = False,
        threads: int | None = None,
        shared: bool = False,
    ) -> None:
        self.main = True
        if distributed.launched():
            # Before the launcher's state imports them.
            progress.silence_libraries()
            self.main = distributed.current().main
            if not (self.main or shared):
                raise typer.Exit
        quiet = quiet or not self.main
        self.command = command
        self.threads = threads
        self.mode = Mode.JSON if json else Mode.QUIET if quiet else Mode.HUMAN
        self.quiet = quiet
        self.watch = Stopwatch()

    def result(
        self,
        data: Mapping[str, Any],
        *,
        human: Callable[[], RenderableType | Iterable[RenderableType]],
        quiet: str | Path | Iterable[str | Path],
        verbatim: bool = False,
    ) -> None:
        """Print a result in this sink's mode.

        Args:
            data: JSON-able; gets `schema_version`, `command`, and `seconds` if it has none.
            human: what people read, made only if it is shown.
            quiet: the path, or the paths, one a line.
            verbatim: what people read is a document or a path, whose lines a terminal must not
                wrap, so that they can be copied.
        """
        if self.mode is Mode.JSON:
            whole = {"schema_version": SCHEMA_VERSION, "command": self.command, **data}
            whole.setdefault("seconds", self.watch.report())
            text = visible_json(plain_json.encode(whole).decode(), stdout.can_hold)
            stdout.write(text)
        elif self.mode is Mode.QUIET:
            paths = [quiet] if isinstance(quiet, str | Path) else quiet
            lines = "".join(f"{path}\n" for path in paths)
            # Another program gets the path as it is, or it could not open it.
            if sys.stdout.isatty():
                stdout.write(visible(lines))
            else:
                stdout.write_paths(lines)
        else:
            shown: Any = human()
            for part in shown if isinstance(shown, list | tuple) else [shown]:
                stdout.write(
                    rendered(part)
                    if not isinstance(part, str)
                    else visible(part if verbatim else fitted(part, sys.stdout)) + "\n"
                )

    def remark(self, message: str, *, title: str = "") -> None:
        """A line on stderr for people: ``warning: …``, ``next: …``. Not with ``--quiet``."""
        if not self.quiet:
            try:
                head = typer.style(f"{title}: ", bold=True) if title else ""
                line = f"{title}: {one_line(message)}" if title else one_line(message)
                # A command is not wrapped, so that it can be copied.
                line = line if title == "next" else fitted(line, sys.stderr)
                typer.echo(head + line.removeprefix(f"{title}: "), err=True)
            except OSError:
                self.quiet = True  # nobody reads stderr

    def next(self, name: str, **values: next_steps.Value) -> None:
        """The line on stderr that says what comes next; for people only, so not with ``--json``.

        Args:
            name: what was done, as in `next_steps.STEPS`.
            values: what the step's line names.
        """
        if self.mode is Mode.HUMAN:
            self.remark(next_steps.line(name, **values), title="next")

    def failure(self, message: str) -> None:
        """A line on stderr that says why the exit code is 1, also with ``--quiet``."""
        typer.echo(one_line(message), err=True)

    def _set_threads(self) -> None:
        """Set the number of threads, before libraries are loaded that read it once."""
        chosen = threads.is_chosen(self.threads)
        used = threads.use(self.threads)
        if not chosen:
            advice = threads.advice(used, threads.physical_cores(), threads.others_running())
            if advice:
                self.remark(advice, title="note")

    @contextmanager
    def observer(self) -> Iterator[Observer]:
        """Progress for a command that computes; libraries are silenced."""
        self._set_threads()
        progress.silence_libraries()
        if self.quiet:
            yield Silent()
        else:
            with progress.showing() as observer:
                yield observer


def rendered(part: RenderableType) -> str:
    """A rich renderable as text for stdout: colours on a terminal, plain and wide otherwise.

    Its text is data: never read as markup, and without control characters.
    """
    # Imported here: most commands print no table.
    from rich.console import Console
    from rich.segment import Segment, Segments

    on_terminal = sys.stdout.isatty()
    width = None if on_terminal or "COLUMNS" in os.environ else PIPED_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        # Control segments are rich's own; all other text may come from outside.
        console.print(
            Segments(
                Segment(visible(segment.text), segment.style, segment.control)
                for segment in console.render(part)
            ),
            end="",
            crop=False,
        )
    text = capture.get()
    return text if on_terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines())
