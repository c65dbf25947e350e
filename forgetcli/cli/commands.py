"""How commands are found and what they have in common: lazy loading, and variables for flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

VARIABLE_PREFIX = "FORGET_"


@dataclass(frozen=True)
class Entry:
    """A command as the main help and completion list it.

    Attributes:
        home: where it is defined: ``module:name`` inside `forgetcli.cli`. The name is a function,
            or a `typer.Typer` with commands.
        summary: the first paragraph of its help.
    """

    home: str
    summary: str


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


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are called.

    `entries` is set by a subclass. Help and completion list the entries; only the command that is
    called, or whose options are completed, is imported.
    """

    entries: Mapping[str, Entry] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name=name, callback=None, help=entry.summary)
            for name, entry in self.entries.items()
        }

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
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=Command)(found)
        return typer.main.get_command(alone)
