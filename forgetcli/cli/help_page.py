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
    """The panels of arguments, options and commands, as one part of the page."""
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            (arguments if is_argument else options).append(record)
    commands = [
        (name, " ".join((listed.help or "").split("\n\n")[0].split()))
        for name, listed in getattr(command, "commands", {}).items()
        if not listed.hidden
    ]
    titled = (("Arguments", arguments), ("Options", options), ("Commands", commands))
    panels = [_panel(title, rows, width) for title, rows in titled if rows]
    return ["\n".join(panels)] if panels else []


def _panel(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    """A frame around rows of a term and its text."""
    left, line, right, side, bottom_left, bottom_right = (
        _ROUNDED if stdout.can_hold(_ROUNDED[0]) else _ASCII
    )
    inside = width - 4
    column = min(max(len(term) for term, _ in rows), LARGEST_TERM, inside // 2)
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
