"""Command lines that forget tells people: whether its own commands accept them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from unittest.mock import patch

import typer

from forgetcli import export, methods
from forgetcli.bundled.recipes import bundled
from forgetcli.cli import suggestions
from forgetcli.cli.app import app
from forgetcli.evaluation import judges
from forgetcli.robustness import attacks

# What the values of these options, lists with commas among them, can be. Commands check them when
# they run.
NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "method": methods.names,
    "methods": lambda: ("all", *methods.names()),
    "attacks": attacks.names,
    "attack_set": attacks.names,
    "judge": judges.names,
    "features": lambda: suggestions.features(""),
    "naming": lambda: suggestions.namings(""),
    "format": export.names,
    "recipe": bundled,
    "recipes": bundled,
    "set_": lambda: recipe_tables(),
}


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The command of a line and the values of its options and arguments; nothing runs.

    Raises:
        AssertionError: it is no line of forget, has too many arguments, lacks a required one, or
            names a method, recipe or the like that does not exist.
        Exception: there is no such command or option, or an option's value is missing or of another
            type.
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
        if not missing:
            with patch.object(parameter, "callback", None):  # callbacks look for files
                values[parameter.name] = parameter.process_value(context, given)
            refuse_unknown_names(line, parameter.name, given)
    return context.command_path.removeprefix("forget "), values


def refuse_unknown_names(line: str, option: str, given: str | list[str]) -> None:
    """Fail if the value of an option has a closed set of names, and is not among them."""
    if option not in NAMES:
        return
    for value in [given] if isinstance(given, str) else given:
        keyed = option in ("set_", "attack_set")  # one KEY=VALUE, and the value may be a list
        for name in re.split("[.=]", value)[:1] if keyed else value.split(","):
            is_file = option in ("recipe", "recipes") and name.endswith(".toml")
            assert is_file or name in NAMES[option](), f"{line}: there is no {option} {name!r}"


@cache
def recipe_tables() -> set[str]:
    """The first parts of keys that ``--set`` takes."""
    return {re.split("[.=]", key)[0] for key in suggestions.recipe_keys("")}
