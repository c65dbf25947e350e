"""The pages of ``--help``: typer's panels, drawn without rich. Importing rich would take longer
than all other work of ``forget --help``.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from forgetcli.cli import stdout

COMMANDS = "Commands"  # the panel of commands without a panel of their own
Row = tuple[str, str]  # a term and its text
LARGEST_WIDTH = 100  # columns
LARGEST_TERM = 28  # columns; the text of a longer term begins on the next line
# Corners, the horizontal line and the vertical line of a frame.
_ROUNDED = ("╭", "─", "╮", "│", "╰", "╯")
_ASCII = ("+", "-", "+", "|", "+", "+")


def page(command: Any, context: Any) -> str:
    """The help page of a command or a group, with colours unless NO_COLOR is set.

    Args:
        command: click's command, whose parameters say what they are (`get_help_record`).
        context: click's context of the call.
    """
    width = min(shutil.get_terminal_size().columns, LARGEST_WIDTH)
    parts = [_styled(_indented(command.get_usage(context), width), bold=True)]
    parts += [_indented(block, width) for block in (command.help or "").split("\n\n") if block]
    parts += _panels(command, context, width)
    if command.epilog:
        parts.append(_indented(command.epilog, width))
    # `parts` are separated by an empty line; the panels among them are one part.
    return "\n" + "\n\n".join(parts) + "\n"


def _panels(command: Any, context: Any, width: int) -> list[str]:
    """The panels of arguments, commands and options, as one part of the page."""
    arguments: list[Row] = []
    options: list[Row] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            (arguments if is_argument else options).append(record)
    commands = _commands(command)
    # Terms of all command panels are equally wide, so that their texts are in one line.
    names = [row for rows in commands.values() for row in rows]
    panels = [_panel("Arguments", arguments, width)] if arguments else []
    panels += [_panel(title, rows, width, names) for title, rows in commands.items()]
    panels += [_panel("Options", options, width)] if options else []
    return ["\n".join(panels)] if panels else []


def _commands(group: Any) -> dict[str, list[Row]]:
    """The commands of a group by the titles of their panels; empty for a command."""
    panels: dict[str, list[Row]] = {}
    for name, listed in getattr(group, "commands", {}).items():
        if not listed.hidden:
            # typer's default is an object that is false.
            title = getattr(listed, "rich_help_panel", None) or COMMANDS
            summary = " ".join((listed.help or "").split("\n\n")[0].split())
            panels.setdefault(str(title), []).append((name, summary))
    return panels


def _panel(title: str, rows: Sequence[Row], width: int, aligned: Sequence[Row] = ()) -> str:
    """A frame around rows of a term and its text.

    Args:
        aligned: rows, also of other panels, whose texts begin in the same column.
    """
    left, line, right, side, bottom_left, bottom_right = (
        _ROUNDED if stdout.can_hold(_ROUNDED[0]) else _ASCII
    )
    inside = width - 4
    longest = max(len(term) for term, _ in aligned or rows)
    column = min(longest, LARGEST_TERM, inside // 2)
    head = f"{left}{line} {title} ".ljust(width - 1, line) + right
    border = _styled(side, dim=True)
    lines = [_styled(head, dim=True)]
    for term, text in rows:
        for start, rest in _row(term, text, column, inside):
            padding = " " * (inside - len(start) - len(rest))
            lines.append(f"{border} {_styled(start, fg='cyan', bold=True)}{rest}{padding} {border}")
    lines.append(_styled(bottom_left + line * (width - 2) + bottom_right, dim=True))
    return "\n".join(lines)


def _row(term: str, text: str, column: int, width: int) -> Iterable[tuple[str, str]]:
    """The lines of a row, each as its part in the column of terms and the text after it."""
    texts = textwrap.wrap(text, width - column - 2, break_on_hyphens=False) or [""]
    if len(term) > column:
        texts = ["", *texts]
        starts = [*textwrap.wrap(term, width)]
    else:
        starts = [term.ljust(column)]
    starts += [" " * column] * (len(texts) - len(starts))
    texts += [""] * (len(starts) - len(texts))
    return [(start, f"  {rest}" if rest else "") for start, rest in zip(starts, texts)]


def _indented(text: str, width: int) -> str:
    """A paragraph, wrapped; a block that begins with a backspace keeps its lines."""
    first, _, block = text.partition("\n")
    if first.strip() == "\b":
        return textwrap.indent(block.rstrip(), " ")
    return textwrap.fill(
        text, width - 2, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )


def _styled(text: str, **style: Any) -> str:
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)
