"""The pages of ``--help``: typer's panels, drawn without rich. Importing rich would take longer
than all other work of ``forget --help``.
"""

from __future__ import annotations

import os
import re
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
# typer's marks of arguments, which repeat those in their names: ``[[DIR]...]...``, ``{FILE…}...``.
_USAGE = (
    (r"\[\[(\S+?)\]\.\.\.\](\.\.\.)?", r"[\1…]"),
    (r"\[\[(\S+?)\]\]", r"[\1]"),
    (r"\{(\S+?)\}", r"\1"),
    (r"(…\]?)\.\.\.", r"\1"),
)
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
    parts = [_styled(_indented(_usage(command, context), width), bold=True)]
    parts += [_indented(block, width) for block in (command.help or "").split("\n\n") if block]
    parts += _panels(command, context, width)
    if command.epilog:
        parts.append(_indented(command.epilog, width))
    # `parts` are separated by an empty line; the panels among them are one part.
    return "\n" + "\n\n".join(parts) + "\n"


def _usage(command: Any, context: Any) -> str:
    """The line of usage, with one mark for what may be left out and one for several values."""
    usage = command.get_usage(context)
    for pattern, plain in _USAGE:
        usage = re.sub(pattern, plain, usage)
    return str(usage)


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
    room = width - column - 2
    texts = textwrap.wrap(_breakable(text, room), room, break_on_hyphens=False) or [""]
    if len(term) > column:
        texts = ["", *texts]
        starts = [*textwrap.wrap(term, width)]
    else:
        starts = [term.ljust(column)]
    starts += [" " * column] * (len(texts) - len(starts))
    texts += [""] * (len(starts) - len(texts))
    return [(start, f"  {rest}" if rest else "") for start, rest in zip(starts, texts)]


def _breakable(text: str, width: int) -> str:
    """Text whose words are at most `width` long, if commas, slashes and signs allow: a longer one
    is divided after one of them, so that no name in it is broken.
    """
    words: list[str] = []
    for word in text.split(" "):
        words.append("")
        for part in re.findall(r"[^,/=]*[,/=]|[^,/=]+", word) or [""]:
            if words[-1] and len(word) > width and len(words[-1] + part) > width:
                words.append(part)
            else:
                words[-1] += part
    return " ".join(words)


def _indented(text: str, width: int) -> str:
    """A paragraph, wrapped; a block that begins with a backspace keeps its lines."""
    first, _, block = text.partition("\n")
    if first.strip() == "\b":
        title = block.lstrip()
        lines = _continued if title.startswith("Example") else _aligned
        return textwrap.indent(lines(block.rstrip(), width - 1), " ")
    return textwrap.fill(
        text, width - 2, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )


def _aligned(block: str, width: int) -> str:
    """Lines of a term and its text; a longer one goes on below its text."""
    lines = []
    for line in block.splitlines():
        term = re.match(r"\s*(\S+\s{2,})?", line)
        indent = " " * (term.end() if term else 0)
        lines.append(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False))
    return "\n".join(lines)


def _continued(block: str, width: int) -> str:
    """Lines of examples; a longer one goes on after a backslash, so that it can be copied."""
    lines: list[str] = []
    for line in block.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        lines.append("")
        # Spaces within quotes are no place for a break.
        for word in re.findall(r'\s*(?:"[^"]*"|[^\s"])+', line):
            if lines[-1].strip() and len(lines[-1] + word) > width - len(" \\"):
                lines[-1] += " \\"
                lines.append(f"{indent}  {word.strip()}")
            else:
                lines[-1] += word
    return "\n".join(lines)


def _styled(text: str, **style: Any) -> str:
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)
