"""Command lines that forget tells people: whether its own commands accept them."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from forgetcli.cli.app import app


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The command of a line and the values of its options and arguments; nothing runs.

    Raises:
        AssertionError: it is no line of forget, has too many arguments, or lacks a required one.
        Exception: there is no such command or option, or an option lacks its value.
    """
    words = shlex.split(line)
    assert words[:1] == ["forget"], line
    command, name, arguments = typer.main.get_command(app), "forget", words[1:]
    context = command.make_context(name, [], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        # Otherwise click forgives unknown commands and options.
        context.resilient_parsing = False
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, [], resilient_parsing=True, parent=context)
    context.resilient_parsing = False
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    assert not rest, f"{line}: too many arguments: {rest}"
    for parameter in command.get_params(context):
        given = values.get(parameter.name)
        # Newer versions of click have a sentinel for "not given".
        missing = given is None or given == () or type(given).__name__ == "Sentinel"
        assert not (parameter.required and missing), f"{line}: {parameter.name} is missing"
    return context.command_path.removeprefix("forget "), values
