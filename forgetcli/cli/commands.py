"""How commands are found and what they have in common: lazy loading, their help page, and
variables for flags.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from forgetcli.cli import help_page

VARIABLE_PREFIX = "FORGET_"


@dataclass(frozen=True)
class Entry:
    """A command as the main help and completion list it.

    Attributes:
        home: where it is defined: ``module:name`` inside `forgetcli.cli`. The name is a function,
            or a `typer.Typer` with commands.
        summary: the first paragraph of its help.
        panel: the title of its panel on the help page.
    """

    home: str
    summary: str
    panel: str = help_page.COMMANDS


class Command(TyperCommand):
    """A command whose options can also be set by variables.

    The variable of an option is FORGET_ and the name of its parameter (``--dry-run``:
    FORGET_DRY_RUN), unless the option names another one. typer's auto_envvar_prefix would do the
    same, but errors would not mention the variable, and ``--help`` would have one.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.envvar is None:
                parameter.envvar = VARIABLE_PREFIX + str(parameter.name).upper()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(help_page.page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command's arguments.

        Completion only asks which parameters were given. Their values are not converted then,
        because typer loads pydantic in order to convert.
        """
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            value, source = parameter.consume_value(ctx, given)
            ctx.set_parameter_source(parameter.name, source)
            ctx.params[parameter.name] = value
        ctx.args = rest
        return rest


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(help_page.page(self, ctx))


class LazyGroup(Group):
    """A group whose commands are imported when they are called.

    `entries` is set by a subclass. Help and completion list the entries; only the command that is
    called, or whose options are completed, is imported.
    """

    entries: Mapping[str, Entry] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(
                name=name, callback=None, help=entry.summary, rich_help_panel=entry.panel
            )
            for name, entry in self.entries.items()
        }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what precedes the command's name."""
        for parameter in self.get_params(ctx):
            # typer's own flags (--help, --install-completion) are None when they are not given, and
            # typer loads pydantic in order to convert None.
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that `args` begin with, imported."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, self.load(name) if name and listed else listed, rest

    @classmethod
    def load(cls, name: str) -> Any:
        """Import the command of an entry."""
        module, _, attribute = cls.entries[name].home.partition(":")
        found = getattr(import_module(f"forgetcli.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, cls=Command)(found)
        return typer.main.get_command(alone)


def show_help(context: typer.Context) -> None:
    """Print the help of a group that was called without a command, on stderr, as a usage error."""
    if context.invoked_subcommand is None:
        with contextlib.redirect_stdout(sys.stderr):
            typer.echo(context.get_help())
        raise typer.Exit(2)
