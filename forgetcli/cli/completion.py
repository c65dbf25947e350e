"""How options offer values to the shell."""

from __future__ import annotations

from collections.abc import Callable


def suggest(kind: str) -> Callable[[str], list[str]]:
    """What completes the values of an option: the function of this name in `suggestions`."""

    def complete(incomplete: str) -> list[str]:
        # Imported here: every command has such options, and only the shell asks for their values.
        from forgetcli.cli import suggestions

        return getattr(suggestions, kind)(incomplete)

    return complete
